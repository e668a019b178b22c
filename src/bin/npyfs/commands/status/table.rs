//! What was found, as a table with a row for each dataset, and for each mount that shows none.

use indicatif::HumanBytes;
use npyfs::printable;
use serde_json::Value;

use super::{Row, State};

const HEADINGS: [&str; 9] = [
    "DATASET",
    "STATE",
    "DTYPE",
    "ROW SHAPE",
    "ROWS",
    "SIZE",
    "CHUNKS",
    "REFUSALS",
    "LAST COMMIT",
];

/// Columns as wide as they need to be, numbers to the right; then a line for each row that has more to
/// say.
pub(super) fn text(found: &[Row]) -> String {
    let mut rows = vec![HEADINGS.map(String::from)];
    rows.extend(found.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADINGS.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = match column {
                4..=7 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.extend(found.iter().filter_map(words));
    text
}

fn cells(row: &Row) -> [String; 9] {
    let cell = |key: &str| match row.0.get(key) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let shape = match row.0.get("row_shape") {
        Some(Value::Array(lengths)) if lengths.is_empty() => "scalar".into(),
        Some(Value::Array(lengths)) => {
            let lengths: Vec<String> = lengths.iter().map(Value::to_string).collect();
            lengths.join("x")
        }
        _ => cell("row_shape"),
    };
    let size = match row.0.get("bytes").and_then(Value::as_u64) {
        Some(bytes) => HumanBytes(bytes).to_string(),
        None => cell("bytes"),
    };
    [
        printable::text(row.path()).into_owned(),
        row.state().shown(),
        cell("dtype"),
        shape,
        cell("rows"),
        size,
        cell("chunks"),
        cell("refusals"),
        cell("last_commit"),
    ]
}

/// What there is to say of a row beside its figures.
fn words(row: &Row) -> Option<String> {
    let state = row.state();
    let what = match state {
        State::Ok => return None,
        State::Verifying | State::Unverified => verification(row)?,
        State::Damaged => damage(row),
        _ => row.0.get("error")?.as_str()?.to_owned(),
    };
    let line = format!("{}: {}: {what}", row.path(), state.shown());
    Some(format!("{}\n", printable::text(&line)))
}

/// Of a copy that nothing is written to before its rows are verified.
fn verification(row: &Row) -> Option<String> {
    let verifying = row.0.get("verifying")?.as_object()?;
    let bytes = |key: &str| verifying.get(key).and_then(Value::as_u64).map(HumanBytes);
    let (done, of) = (bytes("bytes")?, bytes("of")?);
    Some(match verifying.get("failure").and_then(Value::as_str) {
        None => format!(
            "{done} of {of} of this copy: it can be read that far, and written to when that is done"
        ),
        Some(failure) => format!("{done} of {of} of this copy, and no more: {failure}"),
    })
}

/// Of a dataset that nothing is written to because of its damage.
fn damage(row: &Row) -> String {
    let damaged = row.0.get("damaged").and_then(Value::as_array);
    let names = damaged.into_iter().flatten().filter_map(Value::as_str);
    let names: Vec<&str> = names.collect();
    format!(
        "{}: npyfs check --accept lets writes go on",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_says_what_is_missing() {
        let first = r#"{"path": "/m/run7", "state": "ok", "dtype": "<f8", "row_shape": [3, 4],
            "rows": 12345, "bytes": 1185120, "chunks": 7, "refusals": 1,
            "last_commit": "2026-01-02T03:04:05Z"}"#;
        let second = r#"{"path": "/m/a", "state": "unreadable", "error": "it is cut"}"#;
        let third = r#"{"path": "/m/b", "dtype": null, "row_shape": [], "rows": 0, "bytes": 0}"#;
        let found: Vec<Row> = [first, second, third]
            .map(|text| Row(serde_json::from_str(text).unwrap()))
            .into();
        let expected = "\
DATASET  STATE       DTYPE  ROW SHAPE   ROWS      SIZE  CHUNKS  REFUSALS  LAST COMMIT
/m/run7  ok          <f8    3x4        12345  1.13 MiB       7         1  2026-01-02T03:04:05Z
/m/a     UNREADABLE  -      -              -         -       -         -  -
/m/b     ok          -      scalar         0       0 B       -         -  -
/m/a: UNREADABLE: it is cut
";
        assert_eq!(text(&found), expected);
    }
}
