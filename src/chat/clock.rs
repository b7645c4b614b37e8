//! The date and time that templates may ask for.

use std::fmt::Write;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment, as clocks at some place show it. The caller gives it: wasm has no clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: i64,
    /// Seconds that local clocks are ahead of UTC.
    pub utc_offset: i32,
}

impl LocalTime {
    /// Python's `datetime.now().strftime(format)`, in the C locale. As there, the time knows no time
    /// zone, and unknown codes stay as they are.
    pub fn strftime(self, format: &str) -> String {
        let seconds = self.unix_seconds.saturating_add(i64::from(self.utc_offset));
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (year, month, day) = date(days);
        let weekday = (days + 4).rem_euclid(7);
        let day_of_year = days - days_before(year) + 1;
        let hour12 = (hour + 11) % 12 + 1;
        let (day_name, month_name) = (DAYS[weekday as usize], MONTHS[month as usize - 1]);
        // ISO 8601: the week belongs to the year that its Thursday is in.
        let thursday = days - (weekday + 6) % 7 + 3;
        let iso_year = date(thursday).0;
        let iso_week = (thursday - days_before(iso_year)) / 7 + 1;

        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            // glibc: `-` leaves the padding out, and `_` pads with spaces.
            let mut code = rest.next();
            let flag = code.filter(|&c| c == '-' || c == '_');
            if flag.is_some() {
                code = rest.next();
            }
            let pad = |out: &mut String, number: i64, width: usize, fill: char| {
                let _ = match flag.unwrap_or(fill) {
                    '-' => write!(out, "{number}"),
                    '0' => write!(out, "{number:0width$}"),
                    _ => write!(out, "{number:width$}"),
                };
            };
            match code {
                Some('a') => out.push_str(&day_name[..3]),
                Some('A') => out.push_str(day_name),
                Some('b' | 'h') => out.push_str(&month_name[..3]),
                Some('B') => out.push_str(month_name),
                Some('c') => out.push_str(&self.strftime("%a %b %e %H:%M:%S %Y")),
                Some('C') => pad(&mut out, year.div_euclid(100), 2, '0'),
                Some('d') => pad(&mut out, day, 2, '0'),
                Some('D' | 'x') => out.push_str(&self.strftime("%m/%d/%y")),
                Some('e') => pad(&mut out, day, 2, '_'),
                Some('f') => pad(&mut out, 0, 6, '0'),
                Some('F') => out.push_str(&self.strftime("%Y-%m-%d")),
                Some('g') => pad(&mut out, iso_year.rem_euclid(100), 2, '0'),
                Some('G') => pad(&mut out, iso_year, 0, '0'),
                Some('H') => pad(&mut out, hour, 2, '0'),
                Some('I') => pad(&mut out, hour12, 2, '0'),
                Some('j') => pad(&mut out, day_of_year, 3, '0'),
                Some('k') => pad(&mut out, hour, 2, '_'),
                Some('l') => pad(&mut out, hour12, 2, '_'),
                Some('m') => pad(&mut out, month, 2, '0'),
                Some('M') => pad(&mut out, minute, 2, '0'),
                Some('n') => out.push('\n'),
                Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('P') => out.push_str(if hour < 12 { "am" } else { "pm" }),
                Some('r') => out.push_str(&self.strftime("%I:%M:%S %p")),
                Some('R') => out.push_str(&self.strftime("%H:%M")),
                Some('s') => pad(&mut out, self.unix_seconds, 0, '0'),
                Some('S') => pad(&mut out, second, 2, '0'),
                Some('t') => out.push('\t'),
                Some('T' | 'X') => out.push_str(&self.strftime("%H:%M:%S")),
                Some('u') => pad(&mut out, (weekday + 6) % 7 + 1, 0, '0'),
                Some('U') => pad(&mut out, (day_of_year + 6 - weekday) / 7, 2, '0'),
                Some('V') => pad(&mut out, iso_week, 2, '0'),
                Some('w') => pad(&mut out, weekday, 0, '0'),
                Some('W') => pad(&mut out, (day_of_year + 6 - (weekday + 6) % 7) / 7, 2, '0'),
                Some('y') => pad(&mut out, year.rem_euclid(100), 2, '0'),
                Some('Y') => pad(&mut out, year, 0, '0'),
                Some('z' | 'Z') => {}
                Some('%') => out.push('%'),
                other => {
                    out.push('%');
                    out.extend(flag);
                    out.extend(other);
                }
            }
        }
        out
    }
}

/// Year, month and day of the day `days` after 1970-01-01, in the Gregorian calendar.
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    // Years here begin in March, so that a leap day is the last day.
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to the first day of `year`.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) - 719_162
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against Python's `datetime.strftime`.
    #[test]
    fn formats_as_python_does() {
        let all = "%a %A %b %B %C %d %D %e %F %g %G %H %I %j %k %l %m %M %p %P %R %S %T %u %U %V %w %W %y %Y %c|%-d %_m %% %q";
        for (unix_seconds, expected) in PYTHON {
            assert_eq!(LocalTime { unix_seconds, utc_offset: 0 }.strftime(all), expected);
        }
        let berlin = LocalTime { unix_seconds: 1_721_997_296, utc_offset: 7200 };
        assert_eq!(berlin.strftime("%d %b %Y, %-I:%M %p%"), "26 Jul 2024, 2:34 PM%");
        // Hostile clocks are harmless.
        for unix_seconds in [i64::MIN, i64::MAX] {
            LocalTime { unix_seconds, utc_offset: i32::MAX }.strftime(all);
        }
    }

    const PYTHON: [(i64, &str); 8] = [
        (
            0,
            "Thu Thursday Jan January 19 01 01/01/70  1 1970-01-01 70 1970 00 12 001  0 12 01 00 AM am 00:00 00 00:00:00 4 00 01 4 00 70 1970 Thu Jan  1 00:00:00 1970|1  1 % %q",
        ),
        (
            951782399,
            "Mon Monday Feb February 20 28 02/28/00 28 2000-02-28 00 2000 23 11 059 23 11 02 59 PM pm 23:59 59 23:59:59 1 09 09 1 09 00 2000 Mon Feb 28 23:59:59 2000|28  2 % %q",
        ),
        (
            951782400,
            "Tue Tuesday Feb February 20 29 02/29/00 29 2000-02-29 00 2000 00 12 060  0 12 02 00 AM am 00:00 00 00:00:00 2 09 09 2 09 00 2000 Tue Feb 29 00:00:00 2000|29  2 % %q",
        ),
        (
            1104537599,
            "Fri Friday Dec December 20 31 12/31/04 31 2004-12-31 04 2004 23 11 366 23 11 12 59 PM pm 23:59 59 23:59:59 5 52 53 5 52 04 2004 Fri Dec 31 23:59:59 2004|31 12 % %q",
        ),
        (
            1230768000,
            "Thu Thursday Jan January 20 01 01/01/09  1 2009-01-01 09 2009 00 12 001  0 12 01 00 AM am 00:00 00 00:00:00 4 00 01 4 00 09 2009 Thu Jan  1 00:00:00 2009|1  1 % %q",
        ),
        (
            1721997296,
            "Fri Friday Jul July 20 26 07/26/24 26 2024-07-26 24 2024 12 12 208 12 12 07 34 PM pm 12:34 56 12:34:56 5 29 30 5 30 24 2024 Fri Jul 26 12:34:56 2024|26  7 % %q",
        ),
        (
            1735689599,
            "Tue Tuesday Dec December 20 31 12/31/24 31 2024-12-31 25 2025 23 11 366 23 11 12 59 PM pm 23:59 59 23:59:59 2 52 01 2 53 24 2024 Tue Dec 31 23:59:59 2024|31 12 % %q",
        ),
        (
            4102444800,
            "Fri Friday Jan January 21 01 01/01/00  1 2100-01-01 99 2099 00 12 001  0 12 01 00 AM am 00:00 00 00:00:00 5 00 53 5 00 00 2100 Fri Jan  1 00:00:00 2100|1  1 % %q",
        ),
    ];
}
