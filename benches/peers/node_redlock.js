// Runs the contended workload with node-redlock, and prints the result as one line of JSON.
"use strict";

const Redis = require("ioredis").default || require("ioredis");
const Redlock = require("redlock");

const [port, owners, hold, think, run, retryDelay] = process.argv.slice(2).map(Number);
const now = () => Number(process.hrtime.bigint()) / 1e9;
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function main() {
  const client = new Redis(port);
  const pings = [];
  for (let i = 0; i < 2000; i++) {
    const began = now();
    await client.ping();
    pings.push(now() - began);
  }
  client.disconnect();

  const state = { by: null, at: 0, held: 0, inside: 0 };
  const grants = Array(owners).fill(0);
  const handOffs = [];
  const began = now();
  await Promise.all(
    grants.map(async (_, owner) => {
      const connection = new Redis(port);
      const redlock = new Redlock([connection], { retryCount: -1, retryDelay });
      const until = now() + run;
      while (now() < until) {
        const lock = await redlock.lock("bench-node-redlock", 10000);
        const granted = now();
        if (++state.inside !== 1) throw new Error("two owners are inside at once");
        if (state.by !== owner && state.by !== null) handOffs.push(granted - state.at);
        grants[owner]++;
        await sleep(hold);
        state.held += now() - granted;
        state.by = owner;
        state.at = now();
        state.inside--;
        await lock.unlock();
        await sleep(think);
      }
      connection.disconnect();
    })
  );
  const elapsed = now() - began;
  pings.sort((a, b) => a - b);
  console.log(
    JSON.stringify({
      ping: pings[pings.length >> 1],
      hand_offs: handOffs,
      grants,
      utilisation: state.held / elapsed,
      grants_per_second: grants.reduce((a, b) => a + b, 0) / elapsed,
    })
  );
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
