"""What an owner decides at each step: the same draws in the same order as `src/owner/choices.rs`.

As a program it prints decisions. Its arguments are a plan as JSON, the position of a lock in it, and the
number of steps.
"""

import json
import sys

MASK = 2**64 - 1


class Draw:
    """A generator of random numbers: splitmix64."""

    def __init__(self, seed, owner, position, step):
        self.state = seed
        for part in (owner, position, step):
            self.state = (self.next() + part) & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return mixed ^ (mixed >> 31)

    def below(self, bound):
        return self.next() % bound


class Choice:
    """What is decided about one claim before it is requested; times are microseconds."""

    def __init__(self, plan, spec, position, step):
        draw = Draw(plan["seed"], plan["owner"], position, step)
        self.writes = draw.below(3) == 0
        self.permits = 1 + draw.below(min(max(spec["capacity"], 1), 2))
        number, cancel = draw.below(10), draw.below(30_000)
        self.mode = "try" if number == 0 else {"cancel": cancel} if number == 1 else {"wait": plan["limit"]}
        long, slow = draw.below(1_000) < plan["long"], draw.below(100) < 3
        long_rounds, slow_pause = 8 + draw.below(8), 2_000 + draw.below(18_000)
        self.rounds, self.pause = 1 + draw.below(2), draw.below(800)
        if long:
            self.rounds, self.pause = long_rounds, plan["lease"] // 8
        elif slow:
            self.rounds, self.pause = 1, slow_pause
        self.drops = draw.below(10) == 0
        self.rest = draw.below(3_000)
        # Owners in Python do not use it.
        self.uses_value = draw.below(1_000) < plan["values"]

    def __str__(self):
        mode = self.mode
        if mode != "try":
            [(verb, limit)] = mode.items()
            mode = f"{verb}:{limit}"
        drawn = f"{self.writes:d} {self.permits} {mode} {self.rounds} {self.pause}"
        return f"{drawn} {self.drops:d} {self.rest} {self.uses_value:d}"


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    position, steps = int(sys.argv[2]), int(sys.argv[3])
    for step in range(steps):
        print(Choice(plan, plan["locks"][position], position, step))
