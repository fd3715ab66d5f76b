//! Regular expressions over a whole text, as HTTP rules write them. What they are matched against is `http`'s.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt;

/// Bytes that one compiled expression may take.
const MAX_PROGRAM: usize = 1 << 20;
/// Bytes that one expression's cache may take while it is matched.
const MAX_CACHE: usize = 1 << 20;
/// Groups in groups.
const MAX_NESTING: u32 = 100;
/// Characters in an expression.
const MAX_LENGTH: usize = 4096;

/// An expression that must match a text from its first to its last byte.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    whole: Regex,
}

/// Why a text is no expression that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    #[error("error parsing regexp: {0}")]
    Syntax(String),
    #[error("error parsing regexp: it would need more than {MAX_PROGRAM} bytes when compiled")]
    TooBig,
    #[error("error parsing regexp: it has more than {MAX_LENGTH} characters")]
    TooLong,
}

impl Pattern {
    /// Classes such as `\d` mean ASCII, as they do in RE2, unless the expression has characters of its own beyond that.
    pub fn compile(text: &str) -> Result<Pattern, PatternError> {
        if text.len() > MAX_LENGTH {
            return Err(PatternError::TooLong);
        }
        // By itself first: brackets that close the ones put around it would go unseen.
        if let Some(reason) = syntax_fault(text) {
            return Err(PatternError::Syntax(reason));
        }
        let whole = build(text, false).or_else(|_| build(text, true));
        whole.map(|whole| Pattern { text: text.to_owned(), whole }).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooBig,
            other => PatternError::Syntax(other.to_string()),
        })
    }

    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text.as_bytes())
    }

    /// The expression as written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn build(text: &str, unicode: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!(r"\A(?:{text})\z"))
        .unicode(unicode)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_CACHE)
        .nest_limit(MAX_NESTING)
        .build()
}

fn syntax_fault(text: &str) -> Option<String> {
    match regex_syntax::ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(text) {
        Ok(_) => None,
        Err(regex_syntax::Error::Parse(error)) => Some(error.kind().to_string()),
        Err(regex_syntax::Error::Translate(error)) => Some(error.kind().to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// Two patterns of one text are the same.
impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::compile(pattern).unwrap().matches(text)
    }

    #[test]
    fn the_whole_text_must_match() {
        assert!(matches("/public", "/public"));
        for text in ["/public/x", "/public?a=1", "x/public", "/publi", "/Public", "/public\n"] {
            assert!(!matches("/public", text), "{text}");
        }
        assert!(matches("/public.*", "/public?a=1") && matches("GET|HEAD", "HEAD"));
        assert!(!matches("GET|HEAD", "GETX") && !matches("GET|HEAD", "XHEAD"), "alternatives are anchored too");
        assert!(matches("", "") && !matches("", "x"));
        assert!(matches("/a{3}", "/aaa") && matches("(?i)get", "Get"));
        assert!(!matches("a.c", "a\nc"), "a dot is any character but a line's end");
    }

    #[test]
    fn classes_are_ascii_and_other_characters_may_be_named() {
        assert!(matches(r"\d+", "42") && !matches(r"\d", "\u{0663}") && !matches(r"\w", "\u{e9}"));
        assert!(matches("[\u{e9}e]t", "\u{e9}t") && matches(r"\pL", "\u{e9}"));
    }

    #[test]
    fn what_cannot_be_compiled_is_said() {
        for (pattern, reason) in [
            ("(", "unclosed group"),
            ("a)(b", "unopened group"),
            ("[", "unclosed character class"),
            (r"(a)\1", "backreferences are not supported"),
            ("(?=x)", "look-around"),
            ("(?x)a # b", "unclosed group"),
        ] {
            let error = Pattern::compile(pattern).unwrap_err().to_string();
            assert!(error.starts_with("error parsing regexp: ") && error.contains(reason), "{pattern}: {error}");
        }
        assert_eq!(Pattern::compile("(a{1000}){1000}"), Err(PatternError::TooBig));
        assert_eq!(Pattern::compile(&"a".repeat(5000)), Err(PatternError::TooLong));
        assert!(Pattern::compile(&"(".repeat(200)).is_err());
    }

    proptest! {
        #[test]
        fn compiling_never_panics(text in "[a-z(){}|*+?.\\[\\]\\\\0-9^$-]{0,24}", other in "\\PC{0,20}") {
            if let Ok(pattern) = Pattern::compile(&text) {
                pattern.matches(&other);
            }
            let _ = Pattern::compile(&other);
        }
    }
}
