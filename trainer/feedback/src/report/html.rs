//! The report as one HTML page (computes): no script, no external resources, readable on a phone, in light and dark
//! mode, and with a screen reader. Every text is escaped, as prompts and responses are untrusted.

use std::fmt::Write;

use super::format::{escape, plain, shown};
use super::{Fact, Number, Report, Sample, Section, Series, Unit, svg};

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn page(report: &Report) -> String {
    let chain = report.chain();
    let upstream = each(chain.iter().filter(|r| !std::ptr::eq(**r, report)).rev(), |r| stage(r));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<a class=\"skip\" href=\"#main\">Skip to the results</a>\n<div class=\"page\">\n<header>\n\
         <p class=\"kind\"><b>{kind}</b> {name}</p>\n<h1>{title}</h1>\n{cards}{contents}</header>\n\
         <main id=\"main\">\n{facts}{sections}{upstream}</main>\n\
         <footer>Written by Plumbline. The same content for programs: <a href=\"report.json\">report.json</a>, \
         <a href=\"summary.json\">summary.json</a>.</footer>\n</div>\n</body>\n</html>\n",
        title = escape(&report.title),
        kind = report.kind_in_words(),
        name = escape(&report.name),
        cards = cards(&chain, report),
        contents = contents(report),
        facts = facts(&report.facts),
        sections = sections(&report.sections, 2, &anchor(report)),
    )
}

/// The concatenated HTML of all items.
fn each<T>(items: impl IntoIterator<Item = T>, html: impl FnMut(T) -> String) -> String {
    items.into_iter().map(html).collect()
}

/// A number with a typographic minus.
fn number(value: f64, unit: Unit) -> String {
    shown(value, unit).replace('-', "\u{2212}")
}

/// The id of a report's part of the page.
fn anchor(report: &Report) -> String {
    let name: String = report.name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    format!("{}-{name}", report.kind)
}

/// The chain, one card per stage with its first number.
fn cards(chain: &[&Report], current: &Report) -> String {
    if chain.len() < 2 {
        return String::new();
    }
    let card = |report: &&Report| {
        let here = std::ptr::eq(*report, current);
        let key = report
            .sections
            .iter()
            .find_map(|s| if let Section::Numbers { rows, .. } = s { rows.first() } else { None });
        let key = key.map_or_else(String::new, |n| {
            format!("<span class=\"key\"><b>{}</b>{}</span>", number(n.value, n.unit), escape(&n.label))
        });
        format!(
            "<li><a href=\"#{}\"{}><span class=\"what\">{}</span><span class=\"name\">{}</span>{key}</a></li>\n",
            if here { "main".into() } else { anchor(report) },
            if here { " aria-current=\"true\"" } else { "" },
            report.kind_in_words(),
            escape(&report.name),
        )
    };
    let items = each(chain, card);
    format!("<nav aria-label=\"Stages of this run\">\n<ol class=\"chain\">\n{items}</ol>\n</nav>\n")
}

fn contents(report: &Report) -> String {
    if report.sections.len() < 3 {
        return String::new();
    }
    let link = |(i, section): (usize, &Section)| {
        format!("<li><a href=\"#{}-{i}\">{}</a></li>\n", anchor(report), escape(section.title()))
    };
    let items = each(report.sections.iter().enumerate(), link);
    format!("<nav class=\"contents\" aria-label=\"Contents\">\n<ul>\n{items}</ul>\n</nav>\n")
}

fn facts(facts: &[Fact]) -> String {
    if facts.is_empty() {
        return String::new();
    }
    let items = each(facts, |f| format!("<dt>{}</dt><dd>{}</dd>\n", escape(&f.label), escape(&f.text)));
    format!("<section aria-label=\"What this was made from\">\n<dl>\n{items}</dl>\n</section>\n")
}

/// The part of the page for an upstream stage.
fn stage(report: &Report) -> String {
    format!(
        "<section class=\"stage\" id=\"{id}\">\n<p class=\"kind\"><b>{kind}</b> {name}</p>\n<h2>{title}</h2>\n{facts}{sections}</section>\n",
        id = anchor(report),
        kind = report.kind_in_words(),
        name = escape(&report.name),
        title = escape(&report.title),
        facts = facts(&report.facts),
        sections = sections(&report.sections, 3, &anchor(report)),
    )
}

/// Sections in order; plots that follow each other share a grid.
fn sections(sections: &[Section], level: usize, prefix: &str) -> String {
    let mut out = String::new();
    let mut in_plots = false;
    for (i, section) in sections.iter().enumerate() {
        let plot = matches!(section, Section::Curves { .. });
        if plot != in_plots {
            out.push_str(if plot { "<div class=\"plots\">\n" } else { "</div>\n" });
            in_plots = plot;
        }
        let class = if matches!(section, Section::Notice { .. }) { " class=\"notice\" role=\"note\"" } else { "" };
        let _ = write!(
            out,
            "<section id=\"{prefix}-{i}\"{class}>\n<h{level}>{}</h{level}>\n{}</section>\n",
            escape(section.title()),
            body(section, level + 1)
        );
    }
    if in_plots {
        out.push_str("</div>\n");
    }
    out
}

fn body(section: &Section, level: usize) -> String {
    match section {
        Section::Notice { text, .. } | Section::Text { text, .. } => paragraphs(text),
        Section::Numbers { rows, .. } => numbers(rows),
        Section::Table { columns, rows, .. } => table(columns, rows),
        Section::Curves { title, x_label, y_label, series } => curves(title, x_label, y_label, series),
        Section::Samples { columns, rows, .. } => {
            each(rows.iter().enumerate(), |(i, s)| sample(i + 1, columns, s, level))
        }
        Section::Timings { seconds, .. } => timings(seconds.iter().map(|(part, s)| (part.as_str(), *s)).collect()),
    }
}

fn paragraphs(text: &str) -> String {
    let parts = text.split("\n\n").map(str::trim).filter(|p| !p.is_empty());
    each(parts, |p| format!("<p>{}</p>\n", escape(p)))
}

fn numbers(rows: &[Number]) -> String {
    let any_interval = rows.iter().any(|n| n.interval.is_some());
    let row = |n: &Number| {
        let range = n
            .interval
            .map_or_else(String::new, |(low, high)| format!("{} to {}", number(low, n.unit), number(high, n.unit)));
        let interval = if any_interval {
            format!(
                "<td class=\"range\">{range}</td><td class=\"mark\">{}</td>",
                svg::interval(n, rows).unwrap_or_default()
            )
        } else {
            String::new()
        };
        format!(
            "<tr><th scope=\"row\">{}</th><td class=\"big\">{}</td>{interval}<td class=\"note\">{}</td></tr>\n",
            escape(&n.label),
            number(n.value, n.unit),
            escape(&n.note)
        )
    };
    let body = each(rows, row);
    let (head, caption) = if any_interval {
        (
            "<th scope=\"col\">95% interval</th><td></td>",
            "<p class=\"caption\">Bars are 95% intervals: shares on a scale of 0 to 100%, other numbers on a common \
             scale. A dashed line marks the value of no effect.</p>\n",
        )
    } else {
        ("", "")
    };
    format!(
        "<table class=\"numbers\">\n<thead><tr><th scope=\"col\">Measure</th><th scope=\"col\">Value</th>{head}\
         <th scope=\"col\">Measured on</th></tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n{caption}"
    )
}

fn table(columns: &[String], rows: &[Vec<String>]) -> String {
    let numeric = |column: usize| {
        let mut cells = rows.iter().filter_map(|r| r.get(column)).filter(|c| !c.is_empty()).peekable();
        cells.peek().is_some()
            && cells.all(|c| c.trim_end_matches('%').replace([',', '\u{2212}'], "").parse::<f64>().is_ok())
    };
    let class: Vec<&str> = (0..columns.len()).map(|c| if numeric(c) { " class=\"num\"" } else { "" }).collect();
    let head = each(columns.iter().zip(&class), |(c, class)| format!("<th scope=\"col\"{class}>{}</th>", escape(c)));
    let row = |cells: &Vec<String>| {
        let cells = each(cells.iter().zip(&class), |(cell, class)| format!("<td{class}>{}</td>", escape(cell)));
        format!("<tr>{cells}</tr>\n")
    };
    let body = each(rows, row);
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Table\">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )
}

fn curves(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let entry = |(i, s): (usize, &Series)| {
        let last = s.points.iter().rev().find(|(_, y)| y.is_finite()).map_or(f64::NAN, |p| p.1);
        format!("<li>{}{} <b>{}</b></li>", svg::swatch(i), escape(&s.name), number(last, Unit::Plain))
    };
    let legend = each(series.iter().enumerate(), entry);
    let smoothed = if series.iter().any(svg::is_smoothed) { "; the strong line is a moving mean" } else { "" };
    let row = |s: &Series| {
        let finite: Vec<f64> = s.points.iter().map(|p| p.1).filter(|y| y.is_finite()).collect();
        let of = |v: Option<f64>| v.map_or_else(|| "none".into(), plain);
        vec![
            s.name.clone(),
            of(finite.first().copied()),
            of(finite.last().copied()),
            of(finite.iter().copied().reduce(f64::min)),
            of(finite.iter().copied().reduce(f64::max)),
            finite.len().to_string(),
        ]
    };
    let columns = ["metric", "first", "last", "lowest", "highest", "values"].map(String::from);
    format!(
        "<figure>\n<ul class=\"legend\" aria-label=\"Lines and their last values\">{legend}</ul>\n\
         <p class=\"unit\">{}{smoothed}</p>\n{}\n<details><summary>Values</summary>\n{}</details>\n</figure>\n",
        escape(y_label),
        svg::curves(title, x_label, y_label, series),
        table(&columns, &series.iter().map(row).collect::<Vec<_>>())
    )
}

fn sample(index: usize, columns: &[String], sample: &Sample, level: usize) -> String {
    let side = |(i, (column, text)): (usize, (&String, &String))| {
        let score = |s: &super::SampleScore| {
            let value = (*s.values.get(i)?)?;
            let best = s.values.iter().flatten().all(|v| *v <= value) && s.values.iter().flatten().any(|v| *v < value);
            let class = if best { " class=\"best\"" } else { "" };
            Some(format!("<li{class}>{} <b>{}</b></li>", escape(&s.name), number(value, Unit::Plain)))
        };
        let scores: String = sample.scores.iter().filter_map(score).collect();
        let scores = if scores.is_empty() { scores } else { format!("<ul class=\"scores\">{scores}</ul>") };
        format!(
            "<div class=\"side\"><p class=\"which\">{}</p><p class=\"text\" dir=\"auto\">{}</p>{scores}</div>\n",
            escape(column),
            escape(text)
        )
    };
    let sides = each(columns.iter().zip(&sample.texts).enumerate(), side);
    format!(
        "<article class=\"sample\">\n<h{level}>Prompt {index}</h{level}>\n<p class=\"text prompt\" dir=\"auto\">{}</p>\n<div class=\"sides\">\n{sides}</div>\n</article>\n",
        escape(&sample.prompt)
    )
}

fn timings(mut parts: Vec<(&str, f64)>) -> String {
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = parts.iter().map(|p| p.1).sum();
    let row = |(part, seconds): &(&str, f64)| {
        let share = if total > 0.0 { seconds / total } else { 0.0 };
        format!(
            "<tr><th scope=\"row\">{}</th><td class=\"num\">{}</td><td class=\"num\">{}</td><td>\
             <svg class=\"share\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"rest\" width=\"100\" height=\"10\"/><rect width=\"{:.1}\" height=\"10\"/></svg></td></tr>\n",
            escape(part),
            number(*seconds, Unit::Seconds),
            number(share, Unit::Percent),
            100.0 * share
        )
    };
    let body = each(&parts, row);
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Table\">\n<table>\n<thead><tr><th scope=\"col\">Part</th><th scope=\"col\" class=\"num\">Time</th>\
         <th scope=\"col\" class=\"num\">Share</th><td></td></tr></thead>\n<tbody>\n{body}</tbody>\n<tfoot><tr><th scope=\"row\">Total</th>\
         <td class=\"num\">{}</td><td></td><td></td></tr></tfoot>\n</table>\n</div>\n",
        number(total, Unit::Seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::chain;
    use super::*;

    /// (name, attributes) of each tag in order; closing tags with `/`.
    fn tags(html: &str) -> Vec<(&str, &str)> {
        let (head, body) = html.split_once(STYLE).unwrap();
        let tags = [head, body].into_iter().flat_map(|part| part.split('<').skip(1));
        tags.filter(|t| !t.starts_with("!doctype"))
            .map(|t| t.split('>').next().unwrap())
            .map(|t| t.split_once([' ', '\n']).unwrap_or((t, "")))
            .collect()
    }

    fn attributes<'a>(tags: &[(&'a str, &'a str)], name: &str) -> Vec<&'a str> {
        let prefix = format!("{name}=\"");
        tags.iter().filter_map(|(_, a)| Some(a.split(prefix.as_str()).nth(1)?.split('"').next().unwrap())).collect()
    }

    #[test]
    fn hostile_text_reaches_the_page_only_as_text() {
        let html = page(&chain("<script>alert('\"1\"')</script><img src=x onerror=alert(1)>\u{0}\u{202e}"));
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains(['\u{0}', '\u{202e}']));
        assert!(html.contains("&lt;script&gt;alert(&#39;&quot;1&quot;&#39;)&lt;/script&gt;"));
        for (name, attributes) in tags(&html) {
            assert!(!attributes.contains("onerror=") || attributes.contains("&lt;img"), "<{name} {attributes}>");
        }
    }

    #[test]
    fn the_page_has_no_scripts_and_no_external_resources() {
        let html = page(&chain("text"));
        assert!(!html.contains("url(") && !html.contains("@import"));
        let tags = tags(&html);
        assert!(attributes(&tags, "src").is_empty());
        assert!(tags.iter().all(|(name, _)| !["script", "link", "iframe", "img", "object"].contains(name)));
        for href in attributes(&tags, "href") {
            assert!(href.starts_with('#') || ["report.json", "summary.json"].contains(&href), "{href}");
        }
    }

    #[test]
    fn every_tag_is_closed_in_order() {
        let html = page(&chain("a & b < c"));
        let mut open = Vec::new();
        for (name, attributes) in tags(&html) {
            if let Some(name) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closing </{name}>");
            } else if !attributes.ends_with('/') && name != "meta" {
                open.push(name);
            }
        }
        assert_eq!(
            open,
            Vec::<&str>::new().as_slice(),
            "body and html opened before the style sheet ended or are left"
        );
    }

    #[test]
    fn headings_do_not_skip_a_level_and_links_within_the_page_have_one_target() {
        let html = page(&chain("text"));
        let tags = tags(&html);
        let mut level = 0;
        for (name, _) in &tags {
            if let Some(next) = name.strip_prefix('h').and_then(|n| n.parse::<i32>().ok()) {
                assert!(next <= level + 1, "h{next} after h{level}");
                level = next;
            }
        }
        let ids = attributes(&tags, "id");
        for target in attributes(&tags, "href").iter().filter_map(|h| h.strip_prefix('#')) {
            assert_eq!(ids.iter().filter(|id| **id == target).count(), 1, "#{target}");
        }
    }

    #[test]
    fn the_page_shows_the_whole_chain_with_intervals_samples_and_the_notice() {
        let html = page(&chain("a response"));
        for expected in [
            "Preference dataset",
            "Reward model",
            "Tuned policy",
            "Judge and policy share weights",
            "58.0% to 68.1%",
            "class=\"interval\"",
            "objective/kl",
            "class=\"notice\" role=\"note\"",
            "not computed",
            "a response",
        ] {
            assert!(html.contains(expected), "{expected}");
        }
        assert!(html.find("Judge and policy").unwrap() < html.find("class=\"plots\"").unwrap());
        assert_eq!(html, page(&chain("a response")), "the same report is the same bytes");
    }
}
