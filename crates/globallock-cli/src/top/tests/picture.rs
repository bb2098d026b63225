//! The pictures of the documentation, drawn from the cells of screens.

use std::fmt::Write;

use ratatui::style::{Color, Modifier};

use super::screens::page;
use super::*;

/// The size of a cell, in the units of the picture.
const CELL: (u16, u16) = (9, 19);
const LIGHT: &str = "#d8dee9";
const DARK: &str = "#1b1f27";

fn colour(colour: Color, otherwise: &'static str) -> &'static str {
    match colour {
        Color::Red => "#e06c75",
        Color::Yellow => "#e5c07b",
        _ => otherwise,
    }
}

/// A screen as a picture. Each text has its own place, so that the columns stand below each other in every
/// font.
fn svg(cells: &Buffer) -> String {
    let (wide, high) = (cells.area.width * CELL.0 + 20, cells.area.height * CELL.1 + 20);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" font-size=\"15\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\">\n\
         <rect width=\"{wide}\" height=\"{high}\" rx=\"6\" fill=\"{DARK}\"/>\n"
    );
    for y in 0..cells.area.height {
        let mut x = 0;
        while x < cells.area.width {
            let first = &cells[(x, y)];
            let (begin, mut text) = (x, String::new());
            while x < cells.area.width && cells[(x, y)].style() == first.style() {
                let symbol = cells[(x, y)].symbol();
                text += symbol;
                x += u16::try_from(crate::top::text::width(symbol).max(1)).unwrap();
            }
            let mut colours = [colour(first.fg, LIGHT), colour(first.bg, DARK)];
            if first.modifier.contains(Modifier::REVERSED) {
                colours.reverse();
            }
            let (left, top, length) = (begin * CELL.0 + 10, y * CELL.1 + 10, (x - begin) * CELL.0);
            if colours[1] != DARK {
                writeln!(
                    svg,
                    "<rect x=\"{left}\" y=\"{top}\" width=\"{length}\" height=\"{}\" fill=\"{}\"/>",
                    CELL.1, colours[1]
                )
                .unwrap();
            }
            let mut style = String::new();
            for (modifier, attribute) in [
                (Modifier::BOLD, " font-weight=\"bold\""),
                (Modifier::UNDERLINED, " text-decoration=\"underline\""),
                (Modifier::DIM, " opacity=\"0.6\""),
            ] {
                style += if first.modifier.contains(modifier) { attribute } else { "" };
            }
            let base = top + CELL.1 - 5;
            for (column, word) in words(&text) {
                let left = left + column * CELL.0;
                let word = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                writeln!(svg, "<text x=\"{left}\" y=\"{base}\" fill=\"{}\"{style}>{word}</text>", colours[0])
                    .unwrap();
            }
        }
    }
    svg + "</svg>\n"
}

/// The texts between gaps, and the columns that they begin at.
fn words(text: &str) -> Vec<(u16, &str)> {
    let mut words = Vec::new();
    let mut at = 0;
    for part in text.split("  ") {
        let word = part.trim();
        if !word.is_empty() {
            let column = at + part.len() - part.trim_start().len();
            words.push((u16::try_from(crate::top::text::width(&text[..column])).unwrap(), word));
        }
        at += part.len() + 2;
    }
    words
}

fn check(name: &str, cells: &Buffer) {
    let text: String = lines(cells).into_iter().map(|line| line + "\n").collect();
    assert_is_in(&format!("../../docs/pictures/{name}.txt"), &text);
    assert_is_in(&format!("../../docs/pictures/{name}.svg"), &svg(cells));
}

#[test]
fn the_pictures_of_the_documentation_are_what_is_shown() {
    // Not every browser has the letters of every language.
    let mut desk = Desk::with(locks().into_iter().filter(|row| row.name.is_ascii()).collect());
    desk.types("j");
    check("top", &desk.cells(96, 14));
    check("top-lock", &page().cells(96, 22));
}
