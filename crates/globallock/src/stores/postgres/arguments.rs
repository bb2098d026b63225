//! What a call is given, as parameters of a statement or as settings of a transaction.

use tokio_postgres::types::{ToSql, Type};

/// One argument of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument<'a> {
    Text(&'a str),
    Number(Option<i64>),
    Flag(bool),
    Bytes(&'a [u8]),
    /// Ids, which need no quotes in a list.
    Ids(&'a [String]),
    Numbers(&'a [i64]),
}

impl Argument<'_> {
    /// As a parameter.
    pub(super) fn parameter(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Argument::Text(text) => (text, Type::TEXT),
            Argument::Number(number) => (number, Type::INT8),
            Argument::Flag(flag) => (flag, Type::BOOL),
            Argument::Bytes(bytes) => (bytes, Type::BYTEA),
            Argument::Ids(ids) => (ids, Type::TEXT_ARRAY),
            Argument::Numbers(numbers) => (numbers, Type::INT8_ARRAY),
        }
    }

    /// As a setting, which is a text; a number that is missing is an empty one.
    pub(super) fn setting(&self) -> String {
        match self {
            Argument::Text(text) => (*text).to_owned(),
            Argument::Number(number) => number.map(|number| number.to_string()).unwrap_or_default(),
            Argument::Flag(flag) => flag.to_string(),
            Argument::Bytes(bytes) => {
                bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
            }
            Argument::Ids(ids) => format!("{{{}}}", ids.join(",")),
            Argument::Numbers(numbers) => {
                let texts: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                format!("{{{}}}", texts.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_a_setting_that_the_server_reads_as_its_type() {
        let ids = ["a".to_owned(), "b".to_owned()];
        for (argument, setting) in [
            (Argument::Text("it's \\ $call$"), "it's \\ $call$"),
            (Argument::Number(Some(-7)), "-7"),
            (Argument::Number(None), ""),
            (Argument::Flag(true), "true"),
            (Argument::Bytes(&[0, 255]), "\\x00ff"),
            (Argument::Ids(&ids), "{a,b}"),
            (Argument::Numbers(&[1, 2]), "{1,2}"),
            (Argument::Numbers(&[]), "{}"),
        ] {
            assert_eq!(argument.setting(), setting, "{argument:?}");
        }
    }
}
