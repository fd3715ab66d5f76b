//! Making control characters visible. Labels, names and log texts come from containers and could otherwise steer the
//! reader's terminal or forge lines (the flaw of CVE-2025-48056).

use std::borrow::Cow;
use std::fmt::Write;

/// Characters that a terminal obeys instead of showing: C0, DEL and C1 controls, line and paragraph separators, and the
/// marks that reorder text of mixed direction.
fn is_hazardous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line: every hazardous character becomes `\n`, `\t`, `\xNN` or `\u{NNNN}`.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_hazardous, |out, c| match c {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        c if u32::from(c) <= 0xff => append(out, format_args!("\\x{:02x}", u32::from(c))),
        c => append(out, format_args!("\\u{{{:x}}}", u32::from(c))),
    })
}

/// The same for text of several lines: line ends stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hazardous) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split('\n').map(line).collect::<Vec<_>>().join("\n"))
}

/// The same for a JSON text, in JSON's own way: the value stays what it was. Outside strings JSON holds no control
/// character but the line ends, which stay; inside strings serde_json has escaped everything below U+0020.
pub fn json(text: &str) -> Cow<'_, str> {
    let escape = |c| c != '\n' && is_hazardous(c);
    replaced(text, escape, |out, c| append(out, format_args!("\\u{:04x}", u32::from(c))))
}

fn replaced(text: &str, hazard: impl Fn(char) -> bool, replace: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&hazard) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hazard(c) { replace(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn harmless_text_is_left_alone() {
        assert!(matches!(line("container:id=app1 – naïve 名"), Cow::Borrowed(_)));
    }

    #[test]
    fn terminal_commands_become_visible() {
        assert_eq!(line("\x1b]0;owned\x07\x1b[2J"), "\\x1b]0;owned\\x07\\x1b[2J");
        assert_eq!(line("a\nb\r\tc\u{9b}d\u{7f}"), "a\\nb\\r\\tc\\x9bd\\x7f");
        assert_eq!(line("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn lines_keep_their_ends_alone() {
        assert_eq!(lines("one\ntwo\x1b[1m\n"), "one\ntwo\\x1b[1m\n");
    }

    proptest! {
        #[test]
        fn nothing_hazardous_is_left(text in "\\PC{0,8}(\\p{Cc}|\\p{Bidi_Control}|\u{2028}){1,4}.{0,8}") {
            prop_assert!(!line(&text).contains(is_hazardous));
            prop_assert!(!lines(&text).contains(|c| c != '\n' && is_hazardous(c)));
        }

        #[test]
        fn json_keeps_its_value(text in any::<String>()) {
            let written = serde_json::to_string_pretty(&[&text]).unwrap();
            let escaped = json(&written);
            prop_assert!(!escaped.contains(|c| c != '\n' && is_hazardous(c)));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), vec![text]);
        }
    }
}
