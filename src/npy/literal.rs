//! The Python literals that occur in `.npy` headers, read as Python reads them.
//!
//! Strings (either quote, `u` prefix, escapes), integers (Python 2's `L` suffix; leading zeros only
//! where all digits are zero, as in Python 3), `True`, `False`, `None`, tuples, lists and
//! dictionaries. A bare `(6)` stays distinct from `(6,)`, and words that are not Python (`false`)
//! stay words, so that the caller can say what is wrong with them. Depth is bounded, so that no
//! input overflows the stack.

use std::fmt;

use super::HeaderError;

/// Brackets inside each other; a dtype takes three a level of nesting.
const MAX_DEPTH: usize = 64;

/// Characters of a literal that an error message quotes.
const CLIP: usize = 80;

/// A Python literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `'text'`
    Str(String),
    /// `12`, `-1`, `12L`
    Int(i128),
    /// `1.5`, as it was spelled.
    Float(String),
    /// `True` or `False`
    Bool(bool),
    /// A bare word: `None`, or what Python does not know, such as `false`.
    Word(String),
    /// `(6)`: parentheses around one value, which do not make a tuple.
    Paren(Box<Literal>),
    /// `(2, 3)`
    Tuple(Vec<Literal>),
    /// `[2, 3]`
    List(Vec<Literal>),
    /// `{'a': 1}`
    Dict(Vec<Entry>),
}

/// One entry of a dictionary, in the order in which it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Literal,
    /// The value.
    pub value: Literal,
    /// Where the value begins: bytes from the start of the text.
    pub at: usize,
}

impl Literal {
    /// Reads the literal at the start of `text`, after blanks; also where it ends, in bytes.
    ///
    /// # Errors
    /// What keeps the text from being a literal of the kinds above.
    pub fn parse(text: &str) -> Result<(Self, usize), HeaderError> {
        let mut parser = Parser { text, at: 0 };
        let literal = parser.value(0)?;
        Ok((literal, parser.at))
    }

    /// The value inside any parentheses that make no tuple.
    pub fn bare(&self) -> &Self {
        let mut literal = self;
        while let Self::Paren(inner) = literal {
            literal = inner;
        }
        literal
    }

    /// The literal as Python writes it, cut to a length that fits a log line.
    pub(super) fn clipped(&self) -> String {
        clip(&self.to_string())
    }
}

/// The first characters of `text`, with control characters escaped.
pub(super) fn clip(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == CLIP {
            out.push_str("...");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A string as Python's `repr` writes it.
///
/// Which characters are printable is Unicode's business; Rust's table is made by the same rule as
/// Python's (no control, format, surrogate, private, unassigned or separator characters).
pub(super) fn quote(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match c as u32 {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

/// `escape_debug` leaves printable characters alone, and combining ones too after another.
fn is_printable(c: char) -> bool {
    let mut buffer = ['a'; 2];
    buffer[1] = c;
    let text = String::from_iter(buffer);
    text.escape_debug().eq(buffer)
}

/// `(2, 3)`, `(2,)` or `()`, as Python writes a tuple.
pub(super) fn tuple<T: fmt::Display>(values: &[T]) -> String {
    let comma = if values.len() == 1 { "," } else { "" };
    format!("({}{comma})", join(values))
}

fn join<T: fmt::Display>(values: &[T]) -> String {
    let mut out = String::new();
    for (i, value) in values.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        out.push_str(&format!("{comma}{value}"));
    }
    out
}

/// As Python's `repr` writes it.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Str(text) => f.write_str(&quote(text)),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(text) | Self::Word(text) => f.write_str(text),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Paren(inner) => write!(f, "({inner})"),
            Self::Tuple(values) => f.write_str(&tuple(values)),
            Self::List(values) => write!(f, "[{}]", join(values)),
            Self::Dict(entries) => {
                f.write_str("{")?;
                for (i, entry) in entries.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{}: {}", entry.key, entry.value)?;
                }
                f.write_str("}")
            }
        }
    }
}

/// What Python takes for a blank between tokens, here also at the start of a line.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'\x0c')
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes consumed; always at a character boundary.
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no blank, not consumed.
    fn token(&mut self) -> Option<u8> {
        while self.peek().is_some_and(is_blank) {
            self.at += 1;
        }
        self.peek()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn expected(&self, expected: &'static str) -> HeaderError {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        HeaderError::Syntax {
            at: before.chars().count(),
            expected,
        }
    }

    fn value(&mut self, depth: usize) -> Result<Literal, HeaderError> {
        if depth > MAX_DEPTH {
            return Err(HeaderError::TooDeep);
        }
        match self.token() {
            Some(b'{') => self.dict(depth),
            Some(b'[') => Ok(Literal::List(self.sequence(b']', depth)?.0)),
            Some(b'(') => {
                let (mut values, trailing) = self.sequence(b')', depth)?;
                match (values.len(), trailing, values.pop()) {
                    (1, false, Some(only)) => Ok(Literal::Paren(Box::new(only))),
                    (_, _, last) => {
                        values.extend(last);
                        Ok(Literal::Tuple(values))
                    }
                }
            }
            Some(b'\'' | b'"') => self.string(),
            Some(b'0'..=b'9' | b'-' | b'.') => self.number(),
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => self.word(),
            _ => Err(self.expected("a value")),
        }
    }

    /// The values up to `close`, and whether a comma follows the last.
    fn sequence(&mut self, close: u8, depth: usize) -> Result<(Vec<Literal>, bool), HeaderError> {
        self.at += 1;
        let mut values = Vec::new();
        let mut trailing = false;
        loop {
            if self.token() == Some(close) {
                self.at += 1;
                return Ok((values, trailing));
            }
            if !values.is_empty() && !trailing {
                return Err(self.expected("a comma or a closing bracket"));
            }
            values.push(self.value(depth + 1)?);
            trailing = self.comma();
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Literal, HeaderError> {
        self.at += 1;
        let mut entries = Vec::new();
        let mut trailing = true;
        loop {
            if self.token() == Some(b'}') {
                self.at += 1;
                return Ok(Literal::Dict(entries));
            }
            if !trailing {
                return Err(self.expected("a comma or a closing brace"));
            }
            let key = self.value(depth + 1)?;
            if self.token() != Some(b':') {
                return Err(self.expected("a colon"));
            }
            self.at += 1;
            self.token();
            let at = self.at;
            let value = self.value(depth + 1)?;
            entries.push(Entry { key, value, at });
            trailing = self.comma();
        }
    }

    fn comma(&mut self) -> bool {
        let found = self.token() == Some(b',');
        self.at += usize::from(found);
        found
    }

    fn run(&mut self, take: impl Fn(u8) -> bool) -> String {
        let rest = self.rest();
        let len = rest.bytes().take_while(|&b| b < 0x80 && take(b)).count();
        let run = rest.get(..len).unwrap_or("").to_owned();
        self.at += len;
        run
    }

    fn word(&mut self) -> Result<Literal, HeaderError> {
        let word = self.run(|b| b.is_ascii_alphanumeric() || b == b'_');
        match (word.as_str(), self.peek()) {
            ("u" | "U", Some(b'\'' | b'"')) => self.string(),
            (_, Some(b'\'' | b'"')) => Err(self.expected("no string of bytes or other prefix")),
            ("True", _) => Ok(Literal::Bool(true)),
            ("False", _) => Ok(Literal::Bool(false)),
            _ => Ok(Literal::Word(word)),
        }
    }

    fn number(&mut self) -> Result<Literal, HeaderError> {
        let start = self.at;
        let minus = self.peek() == Some(b'-');
        if minus {
            self.at += 1;
            self.token();
        }
        let token = self.run(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_');
        let digits = token.strip_suffix('L').unwrap_or(&token);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            let zeros = digits.bytes().take_while(|&b| b == b'0').count();
            if zeros > 0 && zeros < digits.len() {
                return Err(HeaderError::LeadingZeros(clip(digits)));
            }
            let value: i128 = digits.parse().map_err(|_| HeaderError::HugeInteger)?;
            return Ok(Literal::Int(if minus { -value } else { value }));
        }
        let decimal = token.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        if decimal && !token.contains('_') && token.parse::<f64>().is_ok() {
            let sign = if minus { "-" } else { "" };
            return Ok(Literal::Float(format!("{sign}{token}")));
        }
        self.at = start;
        Err(self.expected("a number"))
    }

    fn string(&mut self) -> Result<Literal, HeaderError> {
        let quote = self.next();
        let mut out = String::new();
        loop {
            match self.next() {
                None | Some('\n' | '\r' | '\0') => {
                    return Err(self.expected("the end of a string before this"));
                }
                Some('\\') => self.escape(&mut out)?,
                c if c == quote => return Ok(Literal::Str(out)),
                Some(c) => out.push(c),
            }
        }
    }

    /// What follows a backslash; an unknown escape stands for itself, as in Python.
    fn escape(&mut self, out: &mut String) -> Result<(), HeaderError> {
        let start = self.at;
        let (character, digits) = match self.next() {
            Some('\n') => return Ok(()),
            Some(c @ ('\\' | '\'' | '"')) => (c, 0),
            Some('a') => ('\x07', 0),
            Some('b') => ('\x08', 0),
            Some('f') => ('\x0c', 0),
            Some('n') => ('\n', 0),
            Some('r') => ('\r', 0),
            Some('t') => ('\t', 0),
            Some('v') => ('\x0b', 0),
            Some('0'..='7') => {
                self.at -= 1;
                let octal = self.rest().bytes().take(3);
                let len = octal.take_while(|b| matches!(b, b'0'..=b'7')).count();
                return self.code(start, len, 8, out);
            }
            Some(c @ 'x') => (c, 2),
            Some(c @ 'u') => (c, 4),
            Some(c @ 'U') => (c, 8),
            Some('N') => return Err(HeaderError::Escape("\\N".into())),
            None => return Err(self.expected("the end of a string before this")),
            Some(c) => {
                out.push('\\');
                (c, 0)
            }
        };
        if digits == 0 {
            out.push(character);
            return Ok(());
        }
        self.code(start, digits, 16, out)
    }

    /// `len` digits as the number of a character.
    fn code(
        &mut self,
        start: usize,
        len: usize,
        radix: u32,
        out: &mut String,
    ) -> Result<(), HeaderError> {
        let digits = self.rest().get(..len).unwrap_or("");
        let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        let code = u32::from_str_radix(digits, radix).ok().filter(|_| all);
        match code.and_then(char::from_u32) {
            Some(c) => {
                out.push(c);
                self.at += len;
                Ok(())
            }
            None => {
                let text = self.text.get(start..).unwrap_or("");
                let text: String = text.chars().take(len + 1).collect();
                Err(HeaderError::Escape(clip(&format!("\\{text}"))))
            }
        }
    }
}

#[cfg(test)]
mod tests;
