//! Values of arguments that completions suggest, though others are accepted or refused in other words.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};

/// A value that is parsed by a function, and these that are suggested.
#[derive(Clone)]
pub(crate) struct Suggested<T> {
    names: Vec<String>,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Suggested<T> {
    pub(crate) fn new(
        names: impl IntoIterator<Item = impl Into<String>>,
        parse: fn(&str) -> Result<T, String>,
    ) -> Self {
        Suggested { names: names.into_iter().map(Into::into).collect(), parse }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Suggested<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let parse = self.parse;
        StringValueParser::new().try_map(move |text| parse(&text)).parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().map(PossibleValue::new)))
    }
}
