//! A directory on a file system that has no room left.

use crate::support::{Running, TestStore};

/// Makes a small file system at `$1`, and there a holder of each kind and a waiter for each. Fills it, lets
/// the holders go while it is full, and says what came of it.
const SCRIPT: &str = r#"
set -u
mount -t tmpfs -o size=256k,nr_inodes=48 none "$1"
export GLOBALLOCK_URL="file://$1/locks"
gl() { "$GLOBALLOCK" run --lease 1s "$@"; }
# A holder says that it holds by a file, and lets go when that is removed.
mkdir "$1/holds"
hold='touch "$0"; while [ -e "$0" ]; do sleep 0.02; done; echo "$1 let go"'
gl a -- sh -c "$hold" "$1/holds/a" mutex &
gl --shared b -- sh -c "$hold" "$1/holds/b" reader &
gl --permits 2/3 c -- sh -c "$hold" "$1/holds/c" permits &
until [ "$(ls "$1/holds" | wc -l)" = 3 ]; do sleep 0.02; done
gl --wait 60s a -- echo "a waiter runs" &
gl --wait 60s b -- echo "a writer runs" &
gl --wait 60s --permits 2/3 c -- echo "a second of permits runs" &
claims() { ls "$1/locks/$2" 2>/dev/null | wc -l; }
for name in a b c; do until [ "$(claims "$1" $name)" = 2 ]; do sleep 0.02; done; done

number=0
while : >"$1/$number.full" 2>/dev/null; do number=$((number + 1)); done
head -c 1000000 /dev/zero >>"$1/0.full" 2>/dev/null
gl --wait 1s d -- echo "runs without room" 2>&1 | tail -n 1
gl --wait 60s e -- echo "one that asked while there was no room runs" &
late=$!
# Over three leases.
sleep 3
rm "$1/holds/a" "$1/holds/b" "$1/holds/c"
for job in $(jobs -p); do [ "$job" = "$late" ] || wait "$job" || echo "a job ended with $?"; done
rm "$1"/*.full
wait "$late" || echo "the late one ended with $?"
find "$1/locks" -type f ! -name .fence ! -name .spare
echo done
"#;

#[test]
fn a_full_disk_costs_no_lock_and_nobody_its_place() {
    let store = TestStore::new();
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--mount", "bash", "-c", SCRIPT, "full"]).arg(store.path("disk"));
    std::fs::create_dir(store.path("disk")).unwrap();
    let run = Running::start(command.env("GLOBALLOCK", env!("CARGO_BIN_EXE_globallock")));
    let said = run.all_until("done");
    let refused = said.iter().find(|line| line.starts_with("globallock: ")).expect("one is refused");
    assert!(
        refused.contains("disk/locks is unavailable: it ") && refused.contains("make room there"),
        "{said:?}"
    );
    for expected in [
        "mutex let go",
        "a waiter runs",
        "reader let go",
        "a writer runs",
        "permits let go",
        "a second of permits runs",
        "one that asked while there was no room runs",
    ] {
        assert!(said.iter().any(|line| line == expected), "{expected:?}: {said:?}");
    }
    assert_eq!(said.len(), 9, "{said:?}");
    assert_eq!(run.end(), Some(0));
}
