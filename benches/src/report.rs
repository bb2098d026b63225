//! How figures are printed.

/// A heading.
pub(crate) fn title(text: &str) {
    println!("\n{text}");
}

/// One figure.
pub(crate) fn row(label: &str, value: f64, unit: &str, goal: &str) {
    println!("  {label:<58} {value:>9.2} {unit:<12} {goal}");
}
