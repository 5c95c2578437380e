//! Regular expressions that are known to compile.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest pattern, in bytes.
pub const PATTERN_MAX: usize = 1024;
/// How much memory a compiled pattern may take, in bytes.
const COMPILED_MAX: usize = 256 * 1024;

/// A regular expression that matches whole texts (RE2 syntax, as Envoy and the Gateway API's
/// implementations take it). Matching takes time linear in the text.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{source_text}` is no regular expression: {why}")]
pub struct PatternError {
    /// The text.
    pub source_text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Pattern {
    /// Whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(source: &str) -> Result<Self, PatternError> {
        let refuse = |why: String| PatternError {
            source_text: source.chars().take(80).collect(),
            why,
        };
        if source.len() > PATTERN_MAX {
            return Err(refuse(format!("it is longer than {PATTERN_MAX} bytes")));
        }
        // Compiled alone first: `a)|(b` is none, although it would be one between parentheses.
        let build = |text: &str| RegexBuilder::new(text).size_limit(COMPILED_MAX).build();
        build(source)
            .and_then(|_| build(&format!("^(?:{source})$")))
            .map(|regex| Self {
                source: source.to_owned(),
                regex,
            })
            .map_err(|error| refuse(error.to_string()))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_texts() {
        let pattern: Pattern = "/v[0-9]+|/beta".parse().unwrap();
        for (text, matches) in [
            ("/v1", true),
            ("/beta", true),
            ("/v1/x", false),
            ("x/beta", false),
        ] {
            assert_eq!(pattern.matches(text), matches, "{text}");
        }
    }

    #[test]
    fn what_is_broken_or_too_big_is_refused() {
        for bad in [
            "(",
            "a)|(b",
            &"x".repeat(PATTERN_MAX + 1),
            "(a{1000}){1000}",
        ] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn it_travels_as_its_text() {
        let pattern: Pattern = "a+".parse().unwrap();
        let text = serde_json::to_string(&pattern).unwrap();
        assert_eq!(serde_json::from_str::<Pattern>(&text).unwrap(), pattern);
        assert!(serde_json::from_str::<Pattern>("\"(\"").is_err());
    }
}
