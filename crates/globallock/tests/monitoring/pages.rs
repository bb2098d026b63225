//! The page, the dashboard and the rules for alerts name exactly the metrics that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::readers::{OpenTelemetry, Prometheus, Reader, samples};
use crate::story::{Store, everything, manager};

/// A metric as the page has it.
pub(crate) struct Listed {
    pub(crate) prometheus: String,
    pub(crate) opentelemetry: String,
    labels: BTreeSet<String>,
    /// Whether only Python has it.
    of_python: bool,
}

fn docs(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The metrics in the table of the page.
pub(crate) fn listed() -> Vec<Listed> {
    let page = docs("metrics.md");
    let lines = page.lines().filter(|line| line.starts_with("| `globallock_"));
    let listed = lines.map(|line| {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let labels = cells[3].split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
        Listed {
            prometheus: cells[1].to_owned(),
            opentelemetry: cells[2].to_owned(),
            labels: labels.collect(),
            of_python: cells[4].ends_with("(Python)"),
        }
    });
    listed.collect()
}

/// The metrics of `globallock serve` with their labels, whose own tests compare them with that page.
fn served() -> Vec<(String, BTreeSet<String>)> {
    let page = docs("serve.md");
    let lines = page.lines().filter(|line| line.starts_with("| `globallock_"));
    let served = lines.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[2].split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
        (cells[1].trim_matches('`').to_owned(), labels.collect())
    });
    let served: Vec<_> = served.collect();
    assert!(served.len() > 10, "{served:?}");
    served
}

/// The names that can be queried, with the labels of each, as Prometheus has them after a scrape.
async fn queried() -> BTreeMap<String, BTreeSet<String>> {
    let (reader, store) = (Prometheus::new(), Store::new());
    let manager = manager(&store, vec![reader.observer(false)]);
    everything(&store, &manager).await;
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, labels, _) in samples(&reader.exporter.render()) {
        names.entry(name.to_owned()).or_default().extend(labels.iter().map(|(label, _)| (*label).to_owned()));
    }
    for metric in listed().into_iter().filter(|metric| metric.of_python) {
        names.insert(metric.prometheus, metric.labels);
    }
    names.extend(served());
    for labels in names.values_mut() {
        labels.extend(["job", "instance"].map(str::to_owned));
    }
    names
}

/// The words of a query, without what stands in quotes.
fn words(query: &str) -> Vec<String> {
    let unquoted: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == '$';
    unquoted.split(|character| !is_part(character)).map(str::to_owned).collect()
}

/// What a query asks for that is not there: a metric, or a label of none of its metrics.
fn unknown(query: &str, names: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let words = words(query);
    let metrics: Vec<&String> = words.iter().filter(|word| word.starts_with("globallock_")).collect();
    assert!(!metrics.is_empty(), "{query}");
    let mut unknown: Vec<String> = metrics
        .iter()
        .filter(|metric| !names.contains_key(**metric))
        .map(|metric| (*metric).clone())
        .collect();
    let labels: BTreeSet<&String> =
        metrics.iter().filter_map(|metric| names.get(*metric)).flatten().collect();
    // Labels stand before a matcher, and in the parentheses after `by`.
    let unquoted: String = query.split('"').step_by(2).collect::<Vec<_>>().join("''");
    let before_matchers = unquoted.split("''").filter_map(|part| {
        part.trim_end_matches(['=', '~', '!'])
            .rsplit([',', '{', ' '])
            .next()
            .filter(|_| part.ends_with(['=', '~']))
    });
    let grouped = unquoted.split("by (").skip(1).flat_map(|part| part.split(')').next().unwrap().split(','));
    let used = before_matchers.chain(grouped).map(|label| label.trim().to_owned());
    unknown.extend(used.filter(|label| !labels.contains(label)));
    unknown
}

#[tokio::test(start_paused = true)]
async fn a_query_for_what_is_not_there_is_found() {
    let names = queried().await;
    let good =
        r#"sum by (job, le) (rate(globallock_acquire_seconds_bucket{store=~"$store", mode!="read"}[5m]))"#;
    assert_eq!(unknown(good, &names), [""; 0]);
    assert_eq!(
        unknown(&good.replace("_bucket", "_buckets"), &names)[0],
        "globallock_acquire_seconds_buckets"
    );
    assert_eq!(unknown(&good.replace("store=~", "shop=~"), &names), ["shop"]);
    assert_eq!(unknown(&good.replace("mode!=", "kind!="), &names), ["kind"]);
    assert_eq!(unknown(&good.replace("by (job", "by (boss"), &names), ["boss"]);
}

#[tokio::test(start_paused = true)]
async fn the_page_lists_the_metrics_and_labels_that_there_are_and_no_others() {
    let listed = listed();
    let ours = || listed.iter().filter(|metric| !metric.of_python);
    let (names, served) = (queried().await, served());
    for metric in ours() {
        let (name, count) = (&metric.prometheus, format!("{}_count", metric.prometheus));
        let mut labels = names.get(name).or(names.get(&count)).unwrap_or_else(|| panic!("{name}")).clone();
        labels.retain(|label| !["job", "instance", "le"].contains(&&**label));
        assert_eq!(labels, metric.labels, "{name}");
    }
    for name in names.keys().filter(|name| served.iter().all(|(of_serve, _)| of_serve != *name)) {
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(listed.iter().any(|metric| metric.prometheus == base), "{base} is not listed");
    }
    // The other reader fails by itself where a name is not in the table.
    let (reader, store) = (OpenTelemetry::new(), Store::new());
    let manager = manager(&store, vec![reader.observer(false)]);
    everything(&store, &manager).await;
    let counted: BTreeSet<String> =
        reader.values().keys().map(|series| series.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(counted, ours().map(|metric| metric.opentelemetry.clone()).collect());
}

#[tokio::test(start_paused = true)]
async fn the_page_lists_the_values_of_labels() {
    let (reader, store) = (Prometheus::new(), Store::new());
    let manager = manager(&store, vec![reader.observer(false)]);
    everything(&store, &manager).await;
    let page = docs("metrics.md");
    for (_, labels, _) in samples(&reader.exporter.render()) {
        for (label, value) in labels.into_iter().filter(|(label, _)| *label != "le") {
            let mut lines = page.split("\n- **").filter(|line| line.starts_with(&format!("{label}**")));
            let listed = lines.next().unwrap_or_else(|| panic!("{label} is not explained"));
            assert!(listed.contains(&format!("`{value}`")), "{label}={value} is not listed");
        }
    }
}

/// The alerts, their queries, and what is said of them.
fn alerts() -> Vec<(String, String)> {
    let rules = docs("monitoring/alerts.yml");
    let field = |part: &str, field: &str| {
        let line = part.lines().find_map(|line| line.trim_start().strip_prefix(field));
        line.unwrap_or_else(|| panic!("{field} is missing in {part}")).trim().to_owned()
    };
    let parts = rules.split("- alert:").skip(1);
    let alerts: Vec<(String, String)> =
        parts.map(|part| (part.lines().next().unwrap().trim().to_owned(), field(part, "expr:"))).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    alerts
}

#[tokio::test(start_paused = true)]
async fn alerts_ask_for_metrics_that_there_are_and_are_explained() {
    let (names, page) = (queried().await, docs("metrics.md"));
    for (alert, query) in alerts() {
        assert_eq!(unknown(&query, &names), [""; 0], "{alert}");
        assert!(page.contains(&format!("| `{alert}` |")), "docs/metrics.md lacks {alert}");
    }
}

/// Each object in a value.
fn objects(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields) => [value].into_iter().chain(fields.values().flat_map(objects)).collect(),
        Value::Array(values) => values.iter().flat_map(objects).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_dashboard_asks_for_metrics_that_there_are() {
    let names = queried().await;
    let dashboard: Value = serde_json::from_str(&docs("monitoring/grafana.json")).unwrap();
    let queries: Vec<&str> =
        objects(&dashboard).iter().filter_map(|object| object["expr"].as_str()).collect();
    assert!(queries.len() > 15, "{queries:?}");
    for query in &queries {
        assert_eq!(unknown(query, &names), [""; 0], "{query}");
    }
    let shown: BTreeSet<String> = queries.iter().flat_map(|query| words(query)).collect();
    for metric in listed() {
        let is_shown = shown.iter().any(|word| word.starts_with(&metric.prometheus));
        assert!(is_shown, "the dashboard does not show {}", metric.prometheus);
    }
    // Its variables: those that are used are there, and they are values of labels that there are.
    let list = dashboard["templating"]["list"].as_array().unwrap();
    let variables: BTreeSet<&str> = list.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    let text = dashboard.to_string();
    for used in text.split('$').skip(1) {
        let used = used.trim_start_matches('{');
        let name: String =
            used.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        let is_grafanas = name.starts_with("__");
        assert!(is_grafanas || variables.contains(&*name), "${name} is not a variable");
    }
    for definition in list.iter().filter_map(|variable| variable["definition"].as_str()) {
        let (query, label) = definition.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
        assert_eq!(unknown(query, &names), [""; 0], "{definition}");
        let label = label.trim_end_matches(')');
        assert!(names["globallock_held"].contains(label), "{definition}");
    }
}

#[test]
fn the_panels_of_the_dashboard_have_their_own_places_and_say_what_they_show() {
    let dashboard: Value = serde_json::from_str(&docs("monitoring/grafana.json")).unwrap();
    let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} covers another one");
            }
        }
        if panel["type"] != "row" {
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn python_counts_by_the_same_names_and_labels_in_the_same_buckets() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../python/globallock/metrics.py");
    let python = fs::read_to_string(path).unwrap();
    let page = docs("metrics.md");
    let quoted =
        |texts: &BTreeSet<String>| texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>();
    for metric in listed() {
        let name = metric.prometheus.strip_prefix("globallock_").unwrap();
        let name = name.strip_suffix("_total").unwrap_or(name);
        let dotted = metric.opentelemetry.strip_prefix("globallock.").unwrap();
        let row =
            python.lines().find(|line| line.trim().starts_with(&format!("(\"{name}\", \"{dotted}\", ")));
        if page
            .lines()
            .any(|line| line.contains(&format!("`{}`", metric.prometheus)) && line.contains("(Rust)"))
        {
            assert_eq!(row, None, "Python has {name} too");
            continue;
        }
        let row = row.unwrap_or_else(|| panic!("Python lacks {name}"));
        let labels: BTreeSet<String> =
            row.split('"').skip(5).step_by(2).take(metric.labels.len()).map(str::to_owned).collect();
        assert_eq!(quoted(&labels), quoted(&metric.labels), "{row}");
        let buckets = globallock::metrics::buckets().find(|(histogram, _)| *histogram == metric.prometheus);
        let of_python = row.split(", ").nth(2).filter(|word| word.starts_with('_'));
        assert_eq!(buckets.is_some(), of_python.is_some(), "{row}");
        if let (Some((_, buckets)), Some(of_python)) = (buckets, of_python) {
            let tuple = python.lines().find_map(|line| line.strip_prefix(&format!("{of_python} = (")));
            let bounds =
                tuple.unwrap().trim_end_matches(')').split(", ").map(|bound| bound.parse::<f64>().unwrap());
            assert_eq!(bounds.collect::<Vec<_>>(), buckets, "{name}");
        }
    }
}
