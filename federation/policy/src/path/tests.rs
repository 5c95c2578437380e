use super::*;
use proptest::prelude::*;

const KEEP: PathRules = PathRules {
    encoded_slashes: EncodedSlashes::Keep,
    merge_slashes: false,
};
const REJECT: PathRules = PathRules {
    encoded_slashes: EncodedSlashes::Reject,
    merge_slashes: false,
};
const DECODE: PathRules = PathRules {
    encoded_slashes: EncodedSlashes::Decode,
    merge_slashes: false,
};
const MERGE: PathRules = PathRules {
    encoded_slashes: EncodedSlashes::Decode,
    merge_slashes: true,
};

#[test]
fn many_spellings_have_one_form() {
    for (path, expected) in [
        ("", "/"),
        ("*", "*"),
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b/", "/a//b/"),
        ("/%61dmin", "/admin"),
        ("/%7Euser/%2D", "/~user/-"),
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e%2e/admin", "/admin"),
        ("/a/%2E./admin", "/admin"),
        ("/../../etc", "/etc"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("\\a\\..\\b", "/b"),
        ("/group%2fproject", "/group%2Fproject"),
        ("/a%5cb", "/a%5Cb"),
        ("/%c3%a9/é", "/%C3%A9/é"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a/..b", "/a/..b"),
        ("/v1/x:y@z;p=1,2", "/v1/x:y@z;p=1,2"),
    ] {
        assert_eq!(normalise(path, KEEP).as_deref(), Ok(expected), "{path}");
    }
    assert_eq!(normalise("/a%2Fb", DECODE).as_deref(), Ok("/a/b"));
    assert_eq!(normalise("/a%5C%2e%2E%2fb", DECODE).as_deref(), Ok("/b"));
    assert_eq!(normalise("//a///%2F/b//", MERGE).as_deref(), Ok("/a/b/"));
    assert_eq!(normalise("/a//../b", MERGE).as_deref(), Ok("/b"));
}

#[test]
fn what_cannot_be_made_harmless_is_refused() {
    for (path, rules, problem) in [
        ("a", KEEP, PathProblem::NotAbsolute),
        ("/%", KEEP, PathProblem::Malformed),
        ("/%4", KEEP, PathProblem::Malformed),
        ("/%zz", KEEP, PathProblem::Malformed),
        ("/%%32e", KEEP, PathProblem::Malformed),
        ("/%+1", KEEP, PathProblem::Malformed),
        ("/%é", KEEP, PathProblem::Malformed),
        ("/a%00.png", KEEP, PathProblem::Nul),
        ("/a%2fb", REJECT, PathProblem::EncodedSlash),
        ("/a%5Cb", REJECT, PathProblem::EncodedSlash),
        ("/a%2f..%2fb", KEEP, PathProblem::HiddenDots),
        ("/..%5Cb", KEEP, PathProblem::HiddenDots),
        ("/app/..;/manager", KEEP, PathProblem::HiddenDots),
        ("/app/%2e%2e;x=1/manager", KEEP, PathProblem::HiddenDots),
        ("/a%2F.;b", KEEP, PathProblem::HiddenDots),
    ] {
        assert_eq!(normalise(path, rules), Err(problem), "{path}");
    }
}

#[test]
fn what_is_normal_already_is_not_copied() {
    for path in ["/", "/a/b.c", "/.well-known/a%2Fb", "/a%20b"] {
        assert!(matches!(normalise(path, KEEP), Ok(Cow::Borrowed(same)) if same == path));
    }
}

/// The slow way: character by character, then RFC 3986 §5.2.4 as it is written there.
fn reference(path: &str, rules: PathRules) -> Option<String> {
    let mut plain = String::new();
    let mut rest = path.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => plain.push('/'),
            '%' => {
                let digits: String = rest.by_ref().take(2).collect();
                let hexadecimal =
                    digits.len() == 2 && digits.bytes().all(|it| it.is_ascii_hexdigit());
                let byte = hexadecimal.then(|| u8::from_str_radix(&digits, 16).unwrap())?;
                let slash = matches!(byte, b'/' | b'\\');
                let (character, encoded_slashes) = (char::from(byte), rules.encoded_slashes);
                if slash && encoded_slashes == EncodedSlashes::Reject || byte == 0 {
                    return None;
                } else if slash && encoded_slashes == EncodedSlashes::Decode {
                    plain.push('/');
                } else if "-._~".contains(character) || byte.is_ascii_alphanumeric() {
                    plain.push(character);
                } else {
                    plain.push_str(&format!("%{}", digits.to_uppercase()));
                }
            }
            other => plain.push(other),
        }
    }
    if rules.merge_slashes {
        while plain.contains("//") {
            plain = plain.replace("//", "/");
        }
    }
    let read_by_the_careless = plain.replace("%2F", "/").replace("%5C", "/");
    let careless = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    let seen = |text: &str| text.split('/').filter(|it| careless(it)).count();
    let open = plain
        .split('/')
        .filter(|it| matches!(*it, "." | ".."))
        .count();
    if seen(&read_by_the_careless) != open {
        return None;
    }
    let (mut input, mut output) = (plain, String::new());
    while !input.is_empty() {
        if input.starts_with("/./") {
            input.replace_range(..2, "");
        } else if input == "/." {
            input = "/".to_owned();
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.push_str(&input[..end]);
            input.replace_range(..end, "");
        }
    }
    Some(output)
}

fn paths() -> impl Strategy<Value = String> {
    let pieces = [
        "/", "/", "/", "//", ".", ".", "..", "a", "b", "%2e", "%2E", "%2f", "%5c", "\\", "%41",
        "%3b", ";", "%25", "%20", "é", "%c3", "%00", "%", "%z1",
    ];
    // The last ones end most walks, so they are rare.
    let piece = prop_oneof![20 => 0..20_usize, 1 => 20..pieces.len()];
    prop::collection::vec(piece, 0..14).prop_map(move |picked| {
        let body: String = picked.into_iter().map(|at| pieces[at]).collect();
        format!("/{body}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn agrees_with_the_reference(path in paths()) {
        for rules in [KEEP, REJECT, DECODE, MERGE] {
            let quick = normalise(&path, rules).ok().map(Cow::into_owned);
            prop_assert_eq!(quick, reference(&path, rules), "{} {:?}", path, rules);
        }
    }

    #[test]
    fn is_idempotent_and_leaves_no_dots(path in paths()) {
        for rules in [KEEP, REJECT, DECODE, MERGE] {
            let Ok(once) = normalise(&path, rules) else { continue };
            prop_assert_eq!(normalise(&once, rules), Ok(Cow::Borrowed(&*once)));
            prop_assert!(once.starts_with('/'));
            let careless = once.replace("%2F", "/").replace("%5C", "/").replace('\\', "/");
            for segment in careless.split('/') {
                prop_assert!(!matches!(segment.split(';').next(), Some("." | "..")), "{}", once);
            }
            for encoded in once.split('%').skip(1) {
                let byte = u8::from_str_radix(&encoded[..2], 16).unwrap();
                prop_assert!(!is_unreserved(byte) && byte != 0, "{}", once);
            }
        }
    }
}
