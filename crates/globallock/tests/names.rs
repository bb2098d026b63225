//! Names of any kind: each is refused with the rule that it breaks, or names a lock that is listed unchanged.

#![cfg(all(feature = "file", target_os = "linux"))]

use futures_util::StreamExt;
use globallock::{Error, LockManager, Options};
use proptest::prelude::*;
use tempfile::TempDir;

/// Texts of every kind, up to the limit and above it.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "a",
        "/",
        ".",
        "..",
        "%",
        "%2F",
        "%%",
        "{a}",
        ":",
        "\0",
        "\n",
        "\u{1b}[2J",
        "\u{202e}",
        "☃",
        "\u{1f512}",
        "\u{301}",
        " ",
        "\u{feff}",
        "\u{7f}",
        "\u{9f}",
        "\u{e000}",
        "\u{fff0}",
        "A",
        "ä",
        "__lock__0000000001",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(pieces.clone(), 0..12).prop_map(|pieces| pieces.concat()),
        // About as many bytes as the limit.
        (pieces, 500_usize..520)
            .prop_map(|(piece, bytes)| piece.repeat(bytes / piece.len() + 1)[..].chars().collect()),
        (any::<char>(), 500_usize..520).prop_map(|(c, bytes)| {
            let text = c.to_string().repeat(bytes);
            text[..text.floor_char_boundary(bytes)].to_owned()
        }),
    ]
}

async fn names(manager: &LockManager, prefix: &str) -> Vec<String> {
    manager
        .list(prefix)
        .map(|listed| listed.expect("the store answers").name.as_str().to_owned())
        .collect()
        .await
}

async fn is_listed_unchanged(manager: &LockManager, text: &str) {
    let allowed = (1..=512).contains(&text.len()) && !text.contains('\0');
    let guard = match manager.mutex(text).try_acquire().await {
        Err(error) => {
            let shown = error.to_string();
            assert!(!allowed, "{text:?}: {error}");
            assert!(shown.len() < 1000 && !shown.contains(char::is_control), "{shown:?}");
            return;
        }
        Ok(guard) => guard.expect("nobody else has it"),
    };
    assert!(allowed, "{text:?}");
    assert_eq!(names(manager, "").await, [text]);
    let prefix: String = text.chars().take(text.chars().count() / 2).collect();
    assert_eq!(names(manager, &prefix).await, [text]);
    assert!(names(manager, &format!("{text}x")).await.is_empty());
    assert_eq!(manager.inspect(text).await.unwrap().len(), 1);
    assert!(manager.mutex(text).try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(names(manager, "").await.is_empty());
}

proptest! {
    #[test]
    fn any_name_is_listed_unchanged_or_refused(text in texts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = TempDir::new().unwrap();
        runtime.block_on(async {
            for url in ["memory:names".to_owned(), format!("file://{}", directory.path().display())] {
                let manager = LockManager::connect(&url).await.unwrap();
                is_listed_unchanged(&manager, &text).await;
                manager.close().await;
            }
        });
    }

    #[test]
    fn any_durations_are_accepted_or_refused(
        lease in any::<std::time::Duration>(),
        wait in any::<Option<std::time::Duration>>(),
        hold in any::<Option<std::time::Duration>>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let manager = LockManager::connect("memory:durations").await.unwrap();
            for lease in [lease, lease / 1_000_000, lease / 1_000_000_000, Options::default().lease] {
                let options = Options::new().lease(lease).wait(wait).max_hold(hold).store_timeout(wait);
                match manager.mutex("a").with_options(options).try_acquire().await {
                    Ok(guard) => {
                        let guard = guard.expect("nobody else has it");
                        guard.renew().await.unwrap();
                        guard.release().await.unwrap();
                    }
                    Err(error) => assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}"),
                }
            }
        });
    }
}
