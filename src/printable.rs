//! Texts and names for people: one line, nothing in it that a terminal obeys.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A text with its control characters written as they are in programs: `\n`, `\u{1b}`.
pub fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// As [`text`], of a name, which may be any bytes: no two names are shown alike.
pub fn name(name: &OsStr) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => shown.push_str("\\\\"),
                other if other.is_control() => shown.extend(other.escape_default()),
                other => shown.push(other),
            }
        }
        for byte in chunk.invalid() {
            shown.extend(byte.escape_ascii().map(char::from));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        assert_eq!(text("ü b"), "ü b");
        assert_eq!(text("a\nb\x1b[31m\u{9b}"), r"a\nb\u{1b}[31m\u{9b}");
    }

    #[test]
    fn no_two_names_are_shown_alike() {
        let names: [&[u8]; 6] = [
            b"a\nb",
            b"a\\nb",
            b"a\xffb",
            b"a\xfeb",
            b"a\\xffb",
            "ü".as_bytes(),
        ];
        let shown = names.map(|it| name(OsStr::from_bytes(it)));
        assert_eq!(
            shown,
            [r"a\nb", r"a\\nb", r"a\xffb", r"a\xfeb", r"a\\xffb", "ü"]
        );
    }
}
