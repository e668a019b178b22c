//! Time as the store keeps it: nanoseconds since 1970, which an `i64` holds until 2262.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Now.
pub(crate) fn now() -> i64 {
    from_system(SystemTime::now())
}

/// From the system's type; what does not fit becomes the nearest that does.
pub fn from_system(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// To the system's type.
pub fn to_system(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 {
        UNIX_EPOCH + distance
    } else {
        UNIX_EPOCH - distance
    }
}

fn timestamp(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// `2026-11-23T19:10:49.123Z`
pub(crate) fn iso(nanos: i64) -> String {
    format!("{:.3}", timestamp(nanos))
}

/// `20261123T191049.123456`, for file names that sort by age.
pub(crate) fn compact(nanos: i64) -> String {
    format!("{:.6}", timestamp(nanos))
        .chars()
        .filter(|character| !matches!(character, '-' | ':' | 'Z'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_in_utc() {
        assert_eq!(iso(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123Z");
        assert_eq!(compact(1_700_000_000_123_456_789), "20231114T221320.123456");
    }

    #[test]
    fn times_before_1970_survive_the_way_there_and_back() {
        for nanos in [-1, -1_500_000_000, 0, 1, i64::MAX] {
            assert_eq!(from_system(to_system(nanos)), nanos);
        }
    }
}
