//! Plots as inline SVG (computes). Colours and fonts come from the page's style sheet, so that a plot follows its light
//! and dark scheme; shapes, scales and texts are computed here. Every plot has a description in words.

use std::fmt::Write;

use super::format::{escape, plain, shown};
use super::{Number, Series, Unit};

/// Size of a plot in its own units. At a width of about 350 pixels, as on a phone, its text is still 11 pixels high.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// Number of colours in the style sheet.
const COLOURS: usize = 8;
/// Approximate maximum number of points per line.
const MAX_POINTS: usize = 400;
/// Number of points per line that react to the pointer.
const MAX_TOOLTIPS: usize = 60;
/// From this many points on, a line is drawn pale, with its moving mean on top.
const SMOOTHED_FROM: usize = 60;

/// Whether a line has a moving mean.
pub(super) fn is_smoothed(series: &Series) -> bool {
    series.points.len() >= SMOOTHED_FROM
}

/// Lines over a common x axis, with axes, ticks, grid and tooltips.
pub fn curves(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let Some(frame) = Frame::around(series) else {
        return format!("<p class=\"empty\">{}: no values were logged.</p>", escape(title));
    };
    let mut body = frame.axes(x_label);
    for (i, line) in series.iter().enumerate() {
        let class = format!("c{}", i % COLOURS);
        if is_smoothed(line) {
            body += &frame.path(&format!("line raw {class}"), &thinned(&line.points));
            body += &frame.path(&format!("line {class}"), &thinned(&smoothed(&line.points)));
        } else {
            body += &frame.path(&format!("line {class}"), &line.points);
        }
        body += &frame.tooltips(&class, x_label, line);
    }
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">{body}</svg>",
        escape(&in_words(title, x_label, y_label, series))
    )
}

/// The swatch of a line's colour and dashes for a legend.
pub(super) fn swatch(index: usize) -> String {
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 22 10\" aria-hidden=\"true\"><path class=\"line c{}\" d=\"M1 5H21\"/></svg>",
        index % COLOURS
    )
}

/// A 95 % interval with its value and the value of no effect. A fraction is on a scale of 0 to 100 %; other numbers are
/// on a common scale for all intervals of the same unit among `rows`, so that they are comparable.
pub fn interval(number: &Number, rows: &[Number]) -> Option<String> {
    let (low, high) = number.interval?;
    if !(number.value.is_finite() && low.is_finite() && high.is_finite()) {
        return None;
    }
    let (from, to) = if is_share(number) {
        (0.0, 1.0)
    } else {
        let same = rows.iter().chain([number]).filter(|n| n.unit == number.unit && !is_share(n));
        let values = same.filter_map(|n| n.interval.map(|(l, h)| [Some(l), Some(h), Some(n.value), n.reference]));
        padded(values.flatten().flatten())?
    };
    let x = |v: f64| 6.0 + 168.0 * (v - from) / (to - from);
    let mark = number
        .reference
        .filter(|r| (from..=to).contains(r))
        .map_or_else(String::new, |r| format!("<path class=\"reference\" d=\"M{0:.1} 2V22\"/>", x(r)));
    let text = |v| shown(v, number.unit);
    Some(format!(
        "<svg class=\"interval\" viewBox=\"0 0 180 24\" role=\"img\" aria-label=\"{label}\">\
         <path class=\"scale\" d=\"M6 12H174M6 8V16M174 8V16\"/>{mark}\
         <path class=\"span\" d=\"M{low:.1} 12H{high:.1}\"/><circle class=\"value\" cx=\"{value:.1}\" cy=\"12\" r=\"4.5\"/></svg>",
        label = escape(&format!(
            "{}: {}, 95% interval {} to {}, on a scale of {} to {}",
            number.label,
            text(number.value),
            text(low),
            text(high),
            text(from),
            text(to)
        )),
        low = x(low),
        high = x(high),
        value = x(number.value),
    ))
}

fn is_share(number: &Number) -> bool {
    number.unit == Unit::Percent && number.interval.is_some_and(|(low, high)| low >= 0.0 && high <= 1.0)
}

/// The plot area.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn around(series: &[Series]) -> Option<Self> {
        let points = || series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let x = range(points().map(|p| p.0))?;
        let x = if x.1 > x.0 { x } else { (x.0 - 0.5, x.1 + 0.5) };
        Some(Self { x, y: padded(points().map(|p| p.1))? })
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let right = (x - self.x.0) / (self.x.1 - self.x.0);
        let up = (y - self.y.0) / (self.y.1 - self.y.0);
        (LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM))
    }

    fn axes(&self, x_label: &str) -> String {
        let mut out = String::new();
        let bottom = HEIGHT - BOTTOM;
        let end = WIDTH - RIGHT;
        for tick in ticks(self.y, 5) {
            let (_, y) = self.at((self.x.0, tick));
            let class = if tick == 0.0 { "grid zero" } else { "grid" };
            let text = plain(tick).replace('-', "\u{2212}");
            let _ = write!(out, "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{end}\"/>");
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                y + 4.5
            );
        }
        for tick in ticks(self.x, 5) {
            let (x, _) = self.at((tick, self.y.0));
            let _ = write!(out, "<path class=\"axis\" d=\"M{x:.1} {bottom}v5\"/>");
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 19.0,
                plain(tick)
            );
        }
        let _ = write!(out, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{end}\"/>");
        let middle = LEFT.midpoint(end);
        let _ = write!(
            out,
            "<text class=\"label\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 7.0,
            escape(x_label)
        );
        out
    }

    /// A line; a value that is not finite interrupts it, and a single point becomes a dot (a round cap of zero length).
    fn path(&self, class: &str, points: &[(f64, f64)]) -> String {
        let mut d = String::new();
        let mut pen_down = false;
        for point in points {
            if !point.1.is_finite() {
                pen_down = false;
                continue;
            }
            let (x, y) = self.at(*point);
            let command = if pen_down { 'L' } else { 'M' };
            let _ = write!(d, "{command}{x:.1} {y:.1}");
            if !pen_down {
                d.push_str("h0");
            }
            pen_down = true;
        }
        format!("<path class=\"{class}\" d=\"{d}\"/>")
    }

    fn tooltips(&self, class: &str, x_label: &str, line: &Series) -> String {
        let finite: Vec<_> = line.points.iter().filter(|(_, y)| y.is_finite()).collect();
        let every = finite.len().div_ceil(MAX_TOOLTIPS).max(1);
        let last = finite.len().saturating_sub(1);
        let mut out = String::new();
        for (_, point) in finite.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last) {
            let (x, y) = self.at(**point);
            let text = escape(&format!("{x_label} {}: {} {}", plain(point.0), line.name, plain(point.1)));
            let _ = write!(
                out,
                "<circle class=\"hit {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"7\"><title>{text}</title></circle>"
            );
        }
        out
    }
}

/// The description of a plot, for screen readers.
fn in_words(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let lines = series.iter().filter_map(|s| {
        let finite: Vec<_> = s.points.iter().filter(|(_, y)| y.is_finite()).collect();
        let (first, last) = (finite.first()?, finite.last()?);
        Some(format!(
            "{} from {} at {x_label} {} to {} at {x_label} {}",
            s.name,
            plain(first.1),
            plain(first.0),
            plain(last.1),
            plain(last.0)
        ))
    });
    format!("{title}: {y_label} by {x_label}. {}.", lines.collect::<Vec<_>>().join("; "))
}

/// Multiples of 1, 2 or 5 times a power of ten within a range, about `count` of them.
fn ticks((low, high): (f64, f64), count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(power);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    // At most a handful, unless the range is below the resolution of its values.
    (first..=last).take(4 * count).map(|k| k as f64 * step).collect()
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |r, v| match r {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

/// The range of values with some padding on both sides.
fn padded(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = range(values)?;
    let room = if high - low > 1e-9 * high.abs().max(low.abs()) {
        0.06 * (high - low)
    } else {
        0.5 * high.abs().max(if high == 0.0 { 1.0 } else { 0.0 })
    };
    Some((low - room, high + room))
}

/// The moving mean over about a twentieth of the points; values that are not finite are ignored.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = points.len() / 40;
    (0..points.len())
        .map(|i| {
            let near = &points[i.saturating_sub(half)..points.len().min(i + half + 1)];
            let near: Vec<f64> = near.iter().map(|p| p.1).filter(|y| y.is_finite()).collect();
            (points[i].0, near.iter().sum::<f64>() / near.len() as f64)
        })
        .collect()
}

/// The lowest and the highest point of each segment of a long line, so that no spike is lost.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MAX_POINTS / 2);
    points
        .chunks(stretch)
        .flat_map(|chunk| {
            let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let mut ends: Vec<_> = chunk.iter().min_by(by_y).into_iter().chain(chunk.iter().max_by(by_y)).collect();
            ends.sort_by(|a, b| a.0.total_cmp(&b.0));
            ends.into_iter().copied()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points }
    }

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        let texts: Vec<String> = ticks((0.0, 1.0), 5).into_iter().map(plain).collect();
        assert_eq!(texts, ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(ticks((3.0, 212.0), 5), [50.0, 100.0, 150.0, 200.0]);
        assert_eq!(ticks((-0.012, 0.011), 5), [-0.01, -0.005, 0.0, 0.005, 0.01]);
        assert!(ticks((1.0, 1.0 + 1e-15), 5).len() <= 20);
    }

    #[test]
    fn a_plot_has_axes_units_a_description_and_a_tooltip_for_its_last_point() {
        let svg = curves(
            "Loss",
            "step",
            "nats",
            &[series("loss", (1..=100).map(|i| (f64::from(i), 1.0 / f64::from(i))).collect())],
        );
        assert!(svg.contains("aria-label=\"Loss: nats by step. loss from 1 at step 1 to 0.01 at step 100.\""), "{svg}");
        assert!(svg.contains("<title>step 100: loss 0.01</title>"));
        assert!(svg.matches("class=\"tick\"").count() >= 8);
        assert!(svg.contains("line raw c0"), "a long line is shown with its mean");
    }

    #[test]
    fn missing_values_break_the_line_and_never_reach_the_markup() {
        let points = vec![(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 1.0), (5.0, f64::INFINITY)];
        let svg = curves("t", "step", "y", &[series("s", points)]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let d = svg.split("line c0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(d.matches('M').count(), 2, "two strokes: {d}");
        assert!(curves("t", "step", "y", &[series("s", vec![(1.0, f64::NAN)])]).contains("no values"));
    }

    #[test]
    fn constant_single_and_huge_values_stay_inside_the_plot() {
        for points in [
            vec![(1.0, 0.0)],
            vec![(1.0, 5.0), (2.0, 5.0)],
            vec![(0.0, -1e300), (1e9, 1e300)],
            vec![(1.0, 1e-12), (2.0, 2e-12)],
        ] {
            let svg = curves("t", "step", "y", &[series("s", points)]);
            for number in svg.split("cx=\"").skip(1).chain(svg.split("cy=\"").skip(1)) {
                let v: f64 = number.split('"').next().unwrap().parse().unwrap();
                assert!((0.0..=WIDTH).contains(&v), "{v} in {svg}");
            }
        }
    }

    #[test]
    fn the_moving_mean_skips_missing_values_and_keeps_a_constant() {
        let mut points: Vec<_> = (0..200).map(|i| (f64::from(i), 2.0)).collect();
        points[50].1 = f64::NAN;
        assert!(smoothed(&points).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
        points[50].1 = 2.0 + 11.0;
        let smooth = smoothed(&points);
        assert!((smooth[50].1 - 3.0).abs() < 1e-12 && (smooth[56].1 - 2.0).abs() < 1e-12, "eleven points, five a side");
    }

    #[test]
    fn thinning_keeps_spikes_and_the_number_of_points_bounded() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 0.0)).collect();
        points[4321].1 = 9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= MAX_POINTS + 2 && thin.contains(&(4321.0, 9.0)), "{}", thin.len());
        assert!(thin.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn an_interval_shows_share_of_one_on_a_fixed_scale_and_its_reference() {
        let svg = interval(&Number::new("win rate", 0.6).percent().interval(0.5, 0.7).reference(0.5), &[]).unwrap();
        assert!(svg.contains("95% interval 50.0% to 70.0%, on a scale of 0.0% to 100.0%"), "{svg}");
        assert!(svg.contains("class=\"reference\" d=\"M90.0 2V22\""), "half way: {svg}");
        let rows = [Number::new("before", 1.0).interval(0.0, 2.0), Number::new("after", 9.0).interval(8.0, 10.0)];
        let ends = |n| {
            interval(n, &rows).unwrap().split("on a scale of ").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        assert_eq!(ends(&rows[0]), ends(&rows[1]), "numbers of one table share a scale");
        assert_eq!(interval(&Number::new("n", 1.0), &[]), None);
        assert_eq!(interval(&Number::new("n", f64::NAN).interval(0.0, 1.0), &[]), None);
    }

    #[test]
    fn names_are_escaped() {
        let svg = curves("<b>", "a\"b", "y", &[series("<script>", vec![(1.0, 1.0)])]);
        assert!(!svg.contains("<script>") && !svg.contains("<b>") && svg.contains("&lt;script&gt;"));
    }
}
