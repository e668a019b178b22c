//! The values of options: how they are written, and how `--help` shows their defaults.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bytes: a number, which may have a unit. `K` and `KiB` are 1024, as everywhere in GNU; `KB` is 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = parse_size::Config::new();
        let is_decimal = text.ends_with(['b', 'B']);
        let parsed = match is_decimal {
            true => units.parse_size(text),
            false => units.with_binary().parse_size(text),
        };
        parsed.map(Self).map_err(|error| {
            format!(
                "must be a number of bytes, or one with a unit as in 64M, 64MiB or 64MB ({error})"
            )
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let is_whole =
            |&&(shift, _): &&(u32, &str)| self.0 > 0 && self.0.is_multiple_of(1 << shift);
        match units.iter().find(is_whole) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A length of time that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|interval| !interval.is_zero())
            .map(Self)
            .ok_or_else(|| "must be a number of seconds above 0".into())
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs_f64())
    }
}

/// What a name stands for that is written more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Names {
    /// The one chunk that has it.
    #[default]
    Once,
    /// The newest chunk of that name.
    Reuse,
}

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "once" => Ok(Names::Once),
            "reuse" => Ok(Names::Reuse),
            _ => Err("must be once or reuse".into()),
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Names::Once => "once",
            Names::Reuse => "reuse",
        })
    }
}

/// How many threads answer the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads(pub(crate) usize);

impl FromStr for Threads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(threads @ 1..=64) => Ok(Self(threads)),
            _ => Err("must be a number from 1 to 64".into()),
        }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_units_that_people_write_and_do_not_overflow() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(size("2048"), Ok(2048));
        for text in ["64M", "64m", "64MiB", "64Mi", "64 MiB", "65536K", "0.0625G"] {
            assert_eq!(size(text), Ok(64 << 20), "{text}");
        }
        assert_eq!(size("64MB"), Ok(64_000_000));
        assert_eq!(size("16777215T"), Ok(16_777_215 << 40));
        for text in ["16777216T", "", "K", "-1", "1Q"] {
            let refused = size(text);
            assert!(refused.is_err(), "{text}: {refused:?}");
        }
    }

    #[test]
    fn a_default_is_shown_as_it_can_be_written() {
        for bytes in [0, 1, 1000, 64 << 20, 3 << 40] {
            let shown = Size(bytes).to_string();
            assert_eq!(shown.parse(), Ok(Size(bytes)), "{shown}");
        }
        assert_eq!(Size(256 << 20).to_string(), "256M");
        assert_eq!(Seconds(Duration::from_millis(500)).to_string(), "0.5");
    }
}
