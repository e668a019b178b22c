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

/// A name as text, from which it can be told from every other: what is no UTF-8 is written `\xNN`, and a backslash
/// twice.
pub(crate) fn spell(name: &OsStr) -> Cow<'_, str> {
    match name.to_str() {
        Some(text) if !text.contains('\\') => return text.into(),
        _ => {}
    }
    let mut text = String::new();
    for part in name.as_bytes().utf8_chunks() {
        text.push_str(&part.valid().replace('\\', "\\\\"));
        for byte in part.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.into()
}

/// As [`text`], of a name, which may be any bytes: no two names are shown alike.
pub fn name(name: &OsStr) -> String {
    text(&spell(name)).into_owned()
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

    #[test]
    fn names_that_are_no_text_are_spelled_apart() {
        let spelled = |name: &'static [u8]| spell(OsStr::from_bytes(name)).into_owned();
        assert_eq!(spelled("\u{e9}.npy".as_bytes()), "\u{e9}.npy");
        assert_eq!(spelled(b"\xe9.npy"), r"\xe9.npy");
        assert_eq!(spelled(b"\xe8.npy"), r"\xe8.npy");
        assert_eq!(spelled(br"\xe8.npy"), r"\\xe8.npy");
    }
}
