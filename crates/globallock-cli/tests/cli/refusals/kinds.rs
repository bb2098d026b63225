//! A server of another kind than the address says, on every store.

use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::ZooKeeper;

use super::refused;

#[test]
fn a_server_of_another_kind_is_told_with_the_scheme_for_it() {
    let (redis, ensemble) =
        (Redis::start_with(&["--requirepass", "pw"]).unwrap(), ZooKeeper::start(1).unwrap());
    let cluster = Etcd::start(1).unwrap();
    let redis_is = "a Redis or Valkey server: write redis://";
    let zookeeper_is = "a ZooKeeper server: write zookeeper://";
    let etcd_is = "an etcd server: write etcd://";
    for (scheme, port, is) in [
        ("zookeeper", redis.port(), redis_is),
        ("zookeepers", redis.port(), redis_is),
        ("zookeeper", cluster.ports()[0], etcd_is),
        ("zookeepers", cluster.ports()[0], etcd_is),
        ("redis", ensemble.port(0), zookeeper_is),
        ("rediss", ensemble.port(0), zookeeper_is),
        ("valkey", ensemble.port(0), zookeeper_is),
        ("redis", cluster.ports()[0], etcd_is),
        ("rediss", cluster.ports()[0], etcd_is),
        ("etcd", redis.port(), redis_is),
        ("etcds", redis.port(), redis_is),
        ("etcd", ensemble.port(0), zookeeper_is),
        ("etcds", ensemble.port(0), zookeeper_is),
    ] {
        let url = format!("{scheme}://127.0.0.1:{port}");
        let sentence = format!("cannot do this: it is {is}, or check host and port");
        refused(&url, &format!("{url} {sentence}"));
    }
    let host = format!("127.0.0.1:{}", ensemble.port(0));
    let url = format!("redis+sentinel://{host}/main");
    refused(
        &url,
        &format!(
            "{url} cannot do this: the sentinel {host}: it is {zookeeper_is}, or check \
             host and port"
        ),
    );
}
