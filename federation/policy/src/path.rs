//! The one form of a request's path that routes, permissions and the app all see.
//!
//! Many spellings mean the same resource (RFC 3986 §6.2.2). If a rule were matched against one and the
//! app served another, the rule could be walked around: `/public/%2e%2e/admin`. So a path is brought to
//! one form before anybody looks at it, and that form is what is sent on. What no form can make
//! harmless is refused.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How paths are brought to one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathRules {
    /// What becomes of slashes that are percent-encoded.
    pub encoded_slashes: EncodedSlashes,
    /// Whether `//` becomes `/`.
    pub merge_slashes: bool,
}

/// What becomes of `%2F` and `%5C`. An app may take them for data, or for slashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EncodedSlashes {
    /// They stay, and are data: no rule takes them for slashes. A segment that would hold `.` or `..`
    /// if they were slashes is refused.
    #[default]
    Keep,
    /// Paths that have any are refused.
    Reject,
    /// They become slashes.
    Decode,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// It begins with no slash.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// A `%` is not followed by two hexadecimal digits.
    #[error("a `%` in the path is not followed by two hexadecimal digits")]
    Malformed,
    /// `%00`, which ends the string for some readers and not for others.
    #[error("the path holds `%00`")]
    Nul,
    /// An encoded slash, where they are refused.
    #[error("the path holds an encoded slash, and `encodedSlashes` is `reject`")]
    EncodedSlash,
    /// A segment that some apps read as `.` or `..`, and others do not: `..;x` or `a%2F..`.
    #[error("a segment of the path may be read as `.` or `..`")]
    HiddenDots,
}

/// Brings a path (without its query) to one form: unreserved characters are not percent-encoded,
/// other encodings have upper-case digits, `\` is a slash, and there are no dot segments. `*` stays.
///
/// # Errors
/// Says what cannot be made harmless.
pub fn normalise(path: &str, rules: PathRules) -> Result<Cow<'_, str>, PathProblem> {
    match path {
        "" => return Ok(Cow::Borrowed("/")),
        "*" => return Ok(Cow::Borrowed(path)),
        _ if !path.starts_with(['/', '\\']) => return Err(PathProblem::NotAbsolute),
        _ if is_plain(path.as_bytes(), rules.merge_slashes) => return Ok(Cow::Borrowed(path)),
        _ => {}
    }
    let decoded = decode(path, rules.encoded_slashes)?;
    let resolved = resolve(&decoded, rules.merge_slashes)?;
    Ok(if resolved == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(resolved)
    })
}

/// Whether nothing could have to change: no encoding, no backslash, no segment that begins with a dot.
fn is_plain(path: &[u8], merge_slashes: bool) -> bool {
    let mut after_slash = false;
    for byte in path {
        match byte {
            b'%' | b'\\' => return false,
            b'.' if after_slash => return false,
            b'/' if after_slash && merge_slashes => return false,
            _ => {}
        }
        after_slash = *byte == b'/';
    }
    true
}

fn decode(path: &str, encoded_slashes: EncodedSlashes) -> Result<String, PathProblem> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        decoded.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b'\\' {
            decoded.push('/');
            rest = &rest[at + 1..];
            continue;
        }
        let digits = rest.as_bytes().get(at + 1..at + 3);
        let byte = digits.and_then(value_of).ok_or(PathProblem::Malformed)?;
        // Two ASCII digits were read, so this is between characters.
        rest = &rest[at + 3..];
        match (byte, encoded_slashes) {
            (0, _) => return Err(PathProblem::Nul),
            (b'/' | b'\\', EncodedSlashes::Reject) => return Err(PathProblem::EncodedSlash),
            (b'/' | b'\\', EncodedSlashes::Decode) => decoded.push('/'),
            _ if is_unreserved(byte) => decoded.push(char::from(byte)),
            _ => push_encoded(&mut decoded, byte),
        }
    }
    decoded.push_str(rest);
    Ok(decoded)
}

fn value_of(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

fn push_encoded(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Removes dot segments (RFC 3986 §5.2.4), which never lead above the root.
fn resolve(path: &str, merge_slashes: bool) -> Result<String, PathProblem> {
    let mut kept: Vec<&str> = Vec::with_capacity(16);
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            "" if merge_slashes && !last => {}
            _ if hides_dots(segment) => return Err(PathProblem::HiddenDots),
            _ => kept.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    Ok(resolved)
}

/// Whether an app could find a dot segment in this one: some cut parameters off (`..;x`), and some
/// decode slashes (`a%2F..`).
fn hides_dots(segment: &str) -> bool {
    let is_dots = |part: &str| matches!(part.split(';').next(), Some("." | ".."));
    if !segment.contains('%') {
        return is_dots(segment);
    }
    segment
        .split("%2F")
        .flat_map(|part| part.split("%5C"))
        .any(is_dots)
}

#[cfg(test)]
mod tests;
