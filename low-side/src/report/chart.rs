//! Charts as inline SVG: bars, since everything here is counted. Each has a title and a description
//! that say in words what it shows.

use super::html::Html;
use super::words::number;

/// A segment of the one bar that shows where everything went.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// What it is.
    pub name: &'a str,
    /// How many.
    pub count: u64,
    /// The class that colours it.
    pub class: &'static str,
}

/// One bar, in up to two parts.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// What stands below it; empty for nothing.
    pub label: String,
    /// The lower part.
    pub count: u64,
    /// The upper part.
    pub more: u64,
    /// Whether it lies beyond a limit.
    pub late: bool,
}

/// A chart of bars.
#[derive(Clone, Debug)]
pub struct Bars<'a> {
    /// An id that no other chart of the page has.
    pub id: &'a str,
    /// What it shows, in a few words.
    pub title: &'a str,
    /// What it shows, for those who can't see it.
    pub description: &'a str,
    /// The bars.
    pub bars: Vec<Bar>,
    /// Whether each bar says how many it stands for.
    pub counts: bool,
    /// A line before this bar, and what it means.
    pub limit: Option<(usize, String)>,
    /// Its height.
    pub height: u32,
}

/// Whole pixels of the drawing's own grid; the page scales it.
const WIDTH: u32 = 720;
const LEFT: u32 = 64;
const RIGHT: u32 = 8;
/// Room above the bars, where each says how many it stands for, and a limit what it is.
const TOP_WITH_COUNTS: u32 = 34;
const TOP: u32 = 10;
const BOTTOM: u32 = 24;

/// Draws shares of one whole as a single bar, the smallest still seen.
pub fn shares(html: &mut Html, id: &str, title: &str, shares: &[Share<'_>]) {
    let all = shares.iter().fold(0, |all: u64, share| all.saturating_add(share.count));
    let words: Vec<String> =
        shares.iter().map(|share| format!("{} {}", number(share.count), share.name)).collect();
    let description = format!("Of {}: {}.", number(all), words.join(", "));
    figure(html, (id, title, &description), WIDTH, 30, |html| {
        let some = shares.iter().filter(|share| share.count > 0);
        let least = 6;
        let rest = u64::from(WIDTH) - least * some.clone().count() as u64;
        let mut x = 0;
        for share in some {
            let width = least + scaled(share.count, all, rest);
            rect(html, share.class, (x, 4), (width.saturating_sub(1), 22));
            x += width;
        }
    });
    html.element("ul", &[("class", "legend")], |html| {
        for share in shares {
            html.element("li", &[], |html| {
                html.leaf("span", &[("class", &format!("key {}", share.class))], "");
                html.text(&format!("{} {}", number(share.count), share.name));
            });
        }
    });
}

/// Draws bars.
pub fn bars(html: &mut Html, chart: &Bars<'_>) {
    let words = (chart.id, chart.title, chart.description);
    let highest =
        chart.bars.iter().map(|bar| bar.count.saturating_add(bar.more)).max().unwrap_or(0);
    let top = u64::from(if chart.counts { TOP_WITH_COUNTS } else { TOP });
    let plot = u64::from(chart.height - BOTTOM) - top;
    let base = u64::from(chart.height - BOTTOM);
    let wide = u64::from(WIDTH - LEFT - RIGHT);
    let bars = chart.bars.len().max(1) as u64;
    let at = |bar: usize| u64::from(LEFT) + wide * bar as u64 / bars;
    figure(html, words, WIDTH, chart.height, |html| {
        for (height, value) in [(top, highest), (base - plot / 2, highest.div_ceil(2)), (base, 0)] {
            if height < base && highest == 0 {
                continue;
            }
            line(html, "grid", (LEFT.into(), height), ((WIDTH - RIGHT).into(), height));
            let axis = (u64::from(LEFT) - 6, height + 4);
            label(html, "axis end", axis, &number(value));
        }
        for (number_of, bar) in chart.bars.iter().enumerate() {
            let (from, to) = (at(number_of), at(number_of + 1));
            let gap = if to - from > 12 { (to - from) / 6 } else { u64::from(to - from > 3) };
            let width = (to - from).saturating_sub(gap).max(1);
            let x = from + gap / 2;
            let whole = bar.count.saturating_add(bar.more);
            let tall = if whole > 0 { scaled(whole, highest, plot).max(1) } else { 0 };
            let upper = scaled(bar.more, whole, tall);
            let class = if bar.late { "late" } else { "arrived" };
            rect(html, class, (x, base - tall + upper), (width, tall - upper));
            rect(html, "suppressed", (x, base - tall), (width, upper));
            let middle = u64::midpoint(from, to);
            if chart.counts && whole > 0 {
                label(html, "count middle", (middle, base - tall - 4), &number(whole));
            }
            if !bar.label.is_empty() {
                let anchor = match number_of {
                    0 if !chart.counts => ("axis", from),
                    last if last + 1 == chart.bars.len() && !chart.counts => ("axis end", to),
                    _ => ("axis middle", middle),
                };
                label(html, anchor.0, (anchor.1, base + 16), &bar.label);
            }
        }
        if let Some((bar, meaning)) = &chart.limit {
            let x = at(*bar);
            line(html, "limit", (x, 4), (x, base));
            label(html, "limit-text end", (x.saturating_sub(5), 12), meaning);
        }
    });
}

fn figure(
    html: &mut Html,
    (id, title, description): (&str, &str, &str),
    width: u32,
    height: u32,
    inside: impl FnOnce(&mut Html),
) {
    let (title_id, description_id) = (format!("{id}-title"), format!("{id}-description"));
    html.element("div", &[("class", "scroll"), ("tabindex", "0")], |html| {
        let size = format!("0 0 {width} {height}");
        let named = format!("{title_id} {description_id}");
        let attributes = [("viewBox", size.as_str()), ("role", "img"), ("aria-labelledby", &named)];
        html.element("svg", &attributes, |html| {
            html.leaf("title", &[("id", &title_id)], title);
            html.leaf("desc", &[("id", &description_id)], description);
            inside(html);
        });
    });
}

/// `part` of `whole`, where `whole` has this length.
fn scaled(part: u64, whole: u64, length: u64) -> u64 {
    let scaled = u128::from(part) * u128::from(length) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(length)
}

fn rect(html: &mut Html, class: &str, (x, y): (u64, u64), (width, height): (u64, u64)) {
    if width == 0 || height == 0 {
        return;
    }
    let [x, y, width, height] = [x, y, width, height].map(|n| n.to_string());
    let place = [("class", class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)];
    html.element("rect", &place, |_| {});
}

fn line(html: &mut Html, class: &str, (x1, y1): (u64, u64), (x2, y2): (u64, u64)) {
    let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(|n| n.to_string());
    html.element(
        "line",
        &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)],
        |_| {},
    );
}

fn label(html: &mut Html, class: &str, (x, y): (u64, u64), text: &str) {
    let (x, y) = (x.to_string(), y.to_string());
    html.leaf("text", &[("class", class), ("x", &x), ("y", &y)], text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_counts_and_none_at_all_are_drawn_inside_of_the_drawing() {
        for counts in [vec![0, 0], vec![u64::MAX / 2, 1], vec![]] {
            let bars = counts.iter().map(|count| Bar { count: *count, ..Bar::default() }).collect();
            let mut html = Html::default();
            let chart = Bars {
                id: "x",
                title: "t",
                description: "d",
                bars,
                counts: true,
                limit: Some((1, "limit".to_owned())),
                height: 120,
            };
            super::bars(&mut html, &chart);
            let shares_of = |count| Share { name: "n", count, class: "arrived" };
            shares(&mut html, "y", "t", &[shares_of(u64::MAX / 4), shares_of(1), shares_of(0)]);
            let page = html.into_string();
            for value in page.split("=\"").filter_map(|rest| rest.split('"').next()) {
                let number: Option<u64> = value.parse().ok();
                assert!(number.is_none_or(|number| number <= 760), "{value} in {page}");
            }
        }
    }
}
