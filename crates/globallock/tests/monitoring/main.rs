//! Metrics and spans as real exporters have them, and the pages, the dashboard and the rules that use them.

mod pages;
mod readers;
mod spans;
mod story;
mod values;
