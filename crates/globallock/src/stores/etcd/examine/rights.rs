//! The rights of the user, each tried by a request that changes nothing.

use super::{below, without_store};
use crate::backend::Finding;
use crate::error::Error;
use crate::name::Name;
use crate::stores::address::printable;
use crate::stores::etcd::connection::{Connection, is_full};
use crate::stores::etcd::keys;
use crate::stores::etcd::messages::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, Request, TxnRequest,
    operation,
};

/// How long the lease that is tried would live, in seconds, if it could not be revoked.
const LEASE: i64 = 5;

/// Tries each right that locks need.
pub(super) async fn findings(connection: &Connection, name: &Name) -> Vec<Finding> {
    let config = connection.config();
    let (prefix, queue) = (&*config.prefix, keys::queue(&config.prefix, name));
    let user = match &config.login {
        Some((user, _)) => format!("the user {}", user.escape_debug()),
        None => "everybody (there is no login)".to_owned(),
    };
    let mut found = Vec::new();
    // Beside the claims, every manager writes below the empty name.
    for (keys_of, start) in [(&*queue, queue.clone()), (&*format!("{prefix}/"), format!("{prefix}/"))] {
        let shown = printable(keys_of);
        let grant =
            format!("etcdctl role grant-permission ROLE --prefix=true readwrite {}", printable(prefix));
        let read = connection.unary(below(&start)).await.map(drop);
        let write = connection.unary(nothing(start.into_bytes())).await.map(drop);
        for (verb, answer) in [("read", read), ("write and delete", write)] {
            found.extend(missing(answer, format!("{user} may not {verb} the keys below {shown}"), &grant));
        }
    }
    let leased = match connection.unary(LeaseGrantRequest { ttl: LEASE }).await {
        Ok(granted) => connection.unary(LeaseRevokeRequest { id: granted.id }).await.map(drop),
        Err(error) => Err(error),
    };
    found.extend(missing(leased, format!("{user} may not make and end leases"), "give it a role"));
    if !found.is_empty() {
        return found;
    }
    let text =
        format!("{user} may read, write and delete the keys of a lock and those beside it, and make leases");
    found.push(Finding::good("rights", text));
    let listed = connection.unary(below(prefix)).await.map(drop);
    if let Err(Error::PermissionDenied { .. }) = listed {
        let text =
            format!("{user} may not read all of {}: locks work, but cannot be listed", printable(prefix));
        found.push(Finding::note("rights", text));
    }
    found
}

/// A transaction that changes nothing, since no key was ever created at the revision that it asks for. The
/// cluster decides on the rights to all that stands in a transaction, whether it is to be done or not.
fn nothing(key: Vec<u8>) -> TxnRequest {
    TxnRequest {
        compare: vec![Compare::created(key.clone(), i64::MAX)],
        success: vec![
            operation(Request::Put(PutRequest::new([&key[..], b"doctor"].concat(), Vec::new(), 0))),
            operation(Request::Delete(DeleteRangeRequest { key })),
        ],
        failure: Vec::new(),
    }
}

fn missing(answer: Result<(), Error>, text: String, remedy: &str) -> Option<Finding> {
    match answer {
        Ok(()) => None,
        Err(Error::PermissionDenied { .. }) => Some(Finding::denied("rights", text).remedy(remedy)),
        // An alarm tells of that.
        Err(error) if is_full(&error) => None,
        Err(error) => Some(Finding::bad("answers", without_store(&error))),
    }
}
