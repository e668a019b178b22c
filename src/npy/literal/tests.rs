use super::*;

fn read(text: &str) -> String {
    match Literal::parse(text) {
        Ok((literal, _)) => literal.to_string(),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn literals_are_read_as_python_reads_them() {
    for (text, repr) in [
        ("'a'", "'a'"),
        ("\"a\"", "'a'"),
        ("u'a'", "'a'"),
        ("U\"it's\"", "\"it's\""),
        (r"'\x41\u00e9\U0001f600\101\0'", "'Aé😀A\\x00'"),
        (r#"'\\ \' \" \n\r\t \d'"#, r#"'\\ \' " \n\r\t \\d'"#),
        ("'\\\nx'", "'x'"),
        ("12L", "12"),
        ("-3", "-3"),
        ("0", "0"),
        ("0000", "0"),
        ("2.50", "2.50"),
        ("-1e5", "-1e5"),
        ("True", "True"),
        ("false", "false"),
        ("(6)", "(6)"),
        ("(6,)", "(6,)"),
        ("( 2 , 3 , )", "(2, 3)"),
        ("()", "()"),
        ("[ ]", "[]"),
        ("[(1), (2,),]", "[(1), (2,)]"),
        ("\r\n{'a' :\t1,}", "{'a': 1}"),
        ("{}", "{}"),
    ] {
        assert_eq!(read(text), repr, "{text}");
    }
}

#[test]
fn what_python_refuses_is_refused() {
    for text in [
        "",
        "(",
        "[1",
        "{'a'}",
        "{'a':",
        "{'a': 1 'b': 2}",
        "(1 2)",
        "(,)",
        "[,]",
        "{,}",
        "'a",
        "'a\nb'",
        "'\\",
        "'\\x4'",
        "'\\u12'",
        "'\\ud800'",
        "'\\N{DASH}'",
        "'\\U00110000'",
        "b'a'",
        "r'a'",
        "00000005",
        "007",
        "1_000",
        "0x10",
        "1L2",
        "-",
        "--1",
        ".",
        "é",
        "+",
        "(1)(2",
        "'\\x+1'",
        "1..2",
    ] {
        let refused = match Literal::parse(text) {
            Err(_) => true,
            Ok((_, end)) => end < text.len(),
        };
        assert!(refused, "{text}");
    }
    assert_eq!(read("00000005"), "LeadingZeros(\"00000005\")");
    assert_eq!(read(&"9".repeat(50)), "HugeInteger");
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    assert_eq!(read(&"(".repeat(1 << 20)), "TooDeep");
    assert_eq!(read(&"{0:".repeat(1 << 18)), "TooDeep");
    let fits = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    assert_eq!(read(&fits), fits);
}

#[test]
fn an_entry_knows_where_its_value_begins() {
    let text = "{'é': 1, 'b':  (2,)}";
    let Ok((Literal::Dict(entries), end)) = Literal::parse(text) else {
        panic!("a dictionary");
    };
    assert_eq!(&text[entries[1].at..], "(2,)}");
    assert_eq!(end, text.len());
}

#[test]
fn a_message_quotes_a_clipped_line() {
    let long = Literal::Str("x\n".repeat(500)).clipped();
    assert!(long.chars().count() < 90 && !long.contains('\n'), "{long}");
    assert_eq!(clip("a\0b\n"), "a\\u{0}b\\n");
}

proptest::proptest! {
    #[test]
    fn a_quoted_string_reads_back(text in ".*") {
        let (literal, _) = Literal::parse(&quote(&text)).unwrap();
        proptest::prop_assert_eq!(literal, Literal::Str(text));
    }

    #[test]
    fn no_text_panics(text in "[\\[\\](){}'\"\\\\,:0-9a-zL .é-]{0,40}") {
        let _ = Literal::parse(&text);
    }
}
