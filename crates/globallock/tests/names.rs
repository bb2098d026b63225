//! Names of any kind: each is refused with the rule that it breaks, or names one lock that is listed as it was given.

use futures_util::StreamExt;
use globallock::{LockManager, Options};
use proptest::prelude::*;
use tempfile::TempDir;

/// Text of every kind, up to and over the limit.
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
        // Around the limit, in bytes.
        (pieces, 500_usize..520)
            .prop_map(|(piece, bytes)| piece.repeat(bytes / piece.len() + 1)[..].chars().collect()),
        (any::<char>(), 500_usize..520).prop_map(|(c, bytes)| {
            let text = c.to_string().repeat(bytes);
            text[..text.floor_char_boundary(bytes)].to_owned()
        }),
    ]
}

async fn names(manager: &LockManager, prefix: &str) -> Vec<String> {
    manager.names(prefix).map(|name| name.expect("the store answers").as_str().to_owned()).collect().await
}

async fn is_listed_as_given(manager: &LockManager, text: &str) {
    let allowed = (1..=512).contains(&text.len()) && !text.contains('\0');
    let lock = match manager.mutex(text) {
        Err(error) => {
            let shown = error.to_string();
            assert!(!allowed, "{text:?}: {error}");
            assert!(shown.len() < 1000 && !shown.contains(char::is_control), "{shown:?}");
            return;
        }
        Ok(lock) => lock,
    };
    assert!(allowed, "{text:?}");
    let guard = lock.try_acquire().await.unwrap().expect("nobody else has it");
    assert_eq!(names(manager, "").await, [text]);
    let prefix: String = text.chars().take(text.chars().count() / 2).collect();
    assert_eq!(names(manager, &prefix).await, [text]);
    assert!(names(manager, &format!("{text}x")).await.is_empty());
    assert_eq!(manager.inspect(text).await.unwrap().len(), 1);
    assert!(manager.mutex(text).unwrap().try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(names(manager, "").await.is_empty());
}

proptest! {
    #[test]
    fn any_name_is_listed_as_given_or_refused(text in texts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = TempDir::new().unwrap();
        runtime.block_on(async {
            for url in ["memory:names".to_owned(), format!("file://{}", directory.path().display())] {
                let manager = LockManager::connect(&url).await.unwrap();
                is_listed_as_given(&manager, &text).await;
                manager.close().await;
            }
        });
    }

    #[test]
    fn any_spans_of_time_are_taken_or_refused(lease in any::<std::time::Duration>(), wait in any::<Option<std::time::Duration>>(), hold in any::<Option<std::time::Duration>>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let manager = LockManager::connect("memory:spans").await.unwrap();
            for lease in [lease, lease / 1_000_000, lease / 1_000_000_000, Options::default().lease] {
                let options = Options { lease, wait, max_hold: hold, store_timeout: wait };
                if let Ok(lock) = manager.mutex("a").unwrap().with_options(options) {
                    let guard = lock.try_acquire().await.unwrap().expect("nobody else has it");
                    guard.renew().await.unwrap();
                    guard.release().await.unwrap();
                }
            }
        });
    }
}
