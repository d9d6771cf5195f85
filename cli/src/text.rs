//! Text for people.

/// `rows` below `heads`, each column as wide as its widest cell, the last one as long as it is. Columns in which no row
/// has anything are left out.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let length = |text: &str| text.chars().count();
    let widest = |column: usize| rows.iter().map(|row| length(&row[column])).max();
    let widths: [usize; N] = std::array::from_fn(|column| widest(column).unwrap_or(0));
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            if widths[column] == 0 {
                continue;
            }
            let width = widths[column].max(length(heads[column]));
            line.push_str(&format!("{cell:width$}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(heads);
    for row in rows {
        text.push_str(&line(std::array::from_fn(|column| row[column].as_str())));
    }
    text
}

/// A number of bytes in units of a thousand, as disks and networks are measured.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // From here on it would be shown as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 layer`, `2 layers`.
pub(crate) fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 999, 1000, 1_500_000, 999_999, 999_950_000, u64::MAX];
        let texts = sizes.map(bytes);
        let expected = [
            "0 B", "999 B", "1.0 kB", "1.5 MB", "1.0 MB", "1.0 GB", "18.4 EB",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = table(
            ["A", "EMPTY", "LAST"],
            &[row(["xxx", "", "1"]), row(["é", "", ""])],
        );
        assert_eq!(text, "A    LAST\nxxx  1\né\n");
    }
}
