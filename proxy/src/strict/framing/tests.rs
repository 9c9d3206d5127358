use proptest::prelude::*;

use super::*;

fn verdict(bytes: &[u8]) -> Result<(), Violation> {
    Framing::new().feed(bytes)
}

/// Whether the bytes end where a request does: another may follow.
fn complete(bytes: &[u8]) -> bool {
    let mut framing = Framing::new();
    framing.feed(bytes).is_ok() && matches!(framing.state, State::Start { blank: 0 }) && framing.bytes == 0
}

/// All that is known after some bytes, without what is left over of names that have ended.
fn standing(framing: &Framing) -> String {
    let mut framing = framing.clone();
    if !matches!(framing.state, State::Name) {
        framing.name_length = 0;
    }
    framing.name.iter_mut().skip(framing.name_length).for_each(|left_over| *left_over = 0);
    format!("{framing:?}")
}

const HOST: &str = "Host: a\r\n";

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\n{HOST}{fields}\r\n{body}").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

#[test]
fn well_formed_requests_pass_to_their_end() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET /?a=b&c HTTP/1.1\r\nhost:a\r\n\r\n",
        "GET http://a:80/x HTTP/1.1\r\nhost: a:80\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "M-SEARCH / HTTP/1.1\r\nHost: a\r\nX: \t tab and \"quotes\" \r\nEmpty:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t 5 \t\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH:0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX-Content-Length: 5\r\nContent-Length-X: 7\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding-Extended-Name: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked \r\n\r\n5\r\nhello\r\n00a;x=\"y z\"\r\n0123456789\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:chunked\r\n\r\n0\r\nX-Trailer: 1\r\nY: 2\r\n\r\n",
    ] {
        assert!(complete(request.as_bytes()), "{request:?}: {:?}", verdict(request.as_bytes()));
        assert!(complete(request.repeat(3).as_bytes()), "{request:?} three times");
    }
    assert!(complete(b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xc3\xa9 \xff\r\n\r\n"));
}

#[test]
fn what_two_parsers_could_read_in_two_ways_is_refused_by_its_name() {
    use Violation as V;
    let cases: &[(&[u8], Violation)] = &[
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", V::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", V::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", V::BareLineFeed),
        (b"\nGET / HTTP/1.1\r\n", V::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", V::BareCarriageReturn),
        (b"GET / HTTP/1.1\rHost: a\r\n\r\n", V::BareCarriageReturn),
        (b"GET / HTTP/1.1\r\nHo\rst: a\r\n\r\n", V::FieldName),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\rX", V::BareCarriageReturn),
        (b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", V::ControlByte),
        (b"GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", V::ControlByte),
        (b"GET / HTTP/1.1\r\nX\0: a\r\n\r\n", V::ControlByte),
        (b"GET /\0 HTTP/1.1\r\n", V::ControlByte),
        (b"GET /\t HTTP/1.1\r\n", V::ControlByte),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", V::FoldedField),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", V::FoldedField),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", V::FoldedField),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", V::SpaceBeforeColon),
        (b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", V::SpaceBeforeColon),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", V::FieldName),
        (b"GET / HTTP/1.1\r\nHost\r\n\r\n", V::FieldName),
        (b"GET / HTTP/1.1\r\nH(st: a\r\n\r\n", V::FieldName),
        (b"GET / HTTP/1.1\r\nH\xc3\xb6st: a\r\n\r\n", V::FieldName),
        (b" GET / HTTP/1.1\r\n", V::RequestLine),
        (b"GET  / HTTP/1.1\r\n", V::RequestLine),
        (b"GET /a b HTTP/1.1\r\n", V::Version),
        (b"GET /  HTTP/1.1\r\n", V::Version),
        (b"GET /#x HTTP/1.1\r\n", V::RequestLine),
        (b"GET /\xff HTTP/1.1\r\n", V::RequestLine),
        (b"GET\t/ HTTP/1.1\r\n", V::ControlByte),
        (b"GET /\r\n", V::RequestLine),
        (b"G@T / HTTP/1.1\r\n", V::RequestLine),
        (b"GET / HTTP/1.2\r\n", V::Version),
        (b"GET / HTTP/2.0\r\n", V::Version),
        (b"GET / HTTP/1.1 \r\n", V::Version),
        (b"GET / http/1.1\r\n", V::Version),
        (b"GET / HTTP/1.11\r\n", V::Version),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n", V::RequestLine),
        (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", V::Host),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n", V::Host),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", V::Host),
    ];
    for (bytes, violation) in cases {
        assert_eq!(verdict(bytes), Err(*violation), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_length_is_one_number() {
    for bad in
        ["", "+5", "-5", "5,5", "5 5", "0x5", "5.0", "9223372036854775808", "99999999999999999999", "\u{665}"]
    {
        let request = post(&format!("Content-Length: {bad}\r\n"), "");
        assert_eq!(verdict(&request), Err(Violation::ContentLength), "{bad:?}");
    }
    assert_eq!(verdict(&post("Content-Length: 9223372036854775807\r\n", "")), Ok(()));
    for second in ["5", "6"] {
        let request = post(&format!("Content-Length: 5\r\ncontent-length: {second}\r\n"), "");
        assert_eq!(verdict(&request), Err(Violation::TwoContentLengths), "{second}");
    }
}

#[test]
fn a_coding_is_chunked_alone() {
    for bad in [
        "",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked,",
        "chunked chunked",
        "chun ked",
        "xchunked",
        "chunkedx",
        "identity",
        "\"chunked\"",
        "chunked;q=1",
    ] {
        let request = post(&format!("Transfer-Encoding: {bad}\r\n"), "");
        assert_eq!(verdict(&request), Err(Violation::TransferEncoding), "{bad:?}");
    }
    let twice = post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "");
    assert_eq!(verdict(&twice), Err(Violation::TransferEncoding));
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(verdict(old), Err(Violation::TransferEncoding));
    for both in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    ] {
        assert_eq!(verdict(&post(both, "")), Err(Violation::LengthAndEncoding), "{both:?}");
    }
}

#[test]
fn chunks_are_size_and_data_and_nothing_else() {
    for bad in [
        "\r\n",
        ";x\r\n",
        "g\r\n",
        "0x5\r\nhello\r\n",
        "-1\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5\nhello\r\n",
        "5\rhello",
        "5\r\nhello\n",
        "5\r\nhello0\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5;x\0\r\n",
        "5;x\nhello",
        "00000000000000000\r\n\r\n",
        "5\r\nhello\rX",
    ] {
        assert_eq!(verdict(&chunked(bad)), Err(Violation::Chunk), "{bad:?}");
    }
    assert_eq!(verdict(&chunked("ffffffffffffffff\r\nx")), Ok(()), "the greatest size that can be counted");
    let extension = format!("5;{}\r\n", "x".repeat(MAX_EXTENSION_BYTES + 1));
    assert_eq!(verdict(&chunked(&extension)), Err(Violation::Chunk));
    let many = "1;abcdefgh\r\nx\r\n".repeat(MAX_EXTENSION_BYTES / 8 + 1);
    assert_eq!(verdict(&chunked(&many)), Err(Violation::Chunk), "the sum over all chunks counts");
}

#[test]
fn trailers_are_fields_that_neither_frame_nor_route() {
    for bad in ["Content-Length: 5", "Transfer-Encoding: chunked", "Host: b"] {
        assert_eq!(verdict(&chunked(&format!("0\r\n{bad}\r\n\r\n"))), Err(Violation::Trailer), "{bad:?}");
    }
    assert_eq!(verdict(&chunked("0\r\nX : 1\r\n\r\n")), Err(Violation::SpaceBeforeColon));
    assert_eq!(verdict(&chunked("0\r\nX: 1\n\r\n")), Err(Violation::BareLineFeed));
    assert_eq!(verdict(&chunked(&format!("0\r\n{}", "x: y\r\n".repeat(101)))), Err(Violation::HeadTooLarge));
}

#[test]
fn a_head_has_60_kib_and_100_fields() {
    let with = |fields: usize| post(&"x: y\r\n".repeat(fields), "");
    assert!(complete(&with(MAX_FIELDS - 1)), "with Host 100");
    assert_eq!(verdict(&with(MAX_FIELDS)), Err(Violation::HeadTooLarge));

    let empty = post("x: \r\n", "").len();
    let sized = |size: usize| post(&format!("x: {}\r\n", "v".repeat(size - empty)), "");
    assert_eq!(sized(MAX_HEAD_BYTES).len(), MAX_HEAD_BYTES);
    assert!(complete(&sized(MAX_HEAD_BYTES)));
    assert!(complete(&sized(MAX_HEAD_BYTES).repeat(2)), "each request has its own");
    assert_eq!(verdict(&sized(MAX_HEAD_BYTES + 1)), Err(Violation::HeadTooLarge));
    let endless = format!("GET /{} ", "a".repeat(MAX_HEAD_BYTES));
    assert_eq!(verdict(endless.as_bytes()), Err(Violation::HeadTooLarge));
    assert_eq!(verdict("G".repeat(MAX_HEAD_BYTES + 1).as_bytes()), Err(Violation::HeadTooLarge));
}

#[test]
fn the_limits_are_the_same_for_lines_that_come_whole_and_byte_by_byte() {
    let singly = |bytes: &[u8]| {
        let mut framing = Framing::new();
        bytes.iter().try_for_each(|byte| framing.feed(&[*byte])).map(|()| standing(&framing))
    };
    let at_once = |bytes: &[u8]| {
        let mut framing = Framing::new();
        framing.feed(bytes).map(|()| standing(&framing))
    };
    for fields in MAX_FIELDS - 2..MAX_FIELDS + 2 {
        let bytes = post(&"x: y\r\n".repeat(fields), "");
        assert_eq!(at_once(&bytes), singly(&bytes), "{fields} fields and Host");
    }
    let (empty, host) = (post("x: \r\n", "").len(), HOST.len());
    for size in MAX_HEAD_BYTES - 3..MAX_HEAD_BYTES + host {
        for target in [format!("/{}", "a".repeat(size - empty)), "/".to_owned()] {
            let value = "v".repeat(size - empty + 1 - target.len());
            let bytes = format!("POST {target} HTTP/1.1\r\n{HOST}x: {value}\r\n\r\n").into_bytes();
            assert_eq!(bytes.len(), size);
            assert_eq!(at_once(&bytes), singly(&bytes), "{size} bytes");
        }
        let blank = format!("\r\nGET /{} HTTP/1.1\r\n{HOST}\r\n", "a".repeat(size - 31)).into_bytes();
        assert_eq!(at_once(&blank), singly(&blank), "{size} bytes with an empty line before them");
    }
}

#[test]
fn a_target_is_refused_where_the_library_would_refuse_it() {
    for byte in 0..=u8::MAX {
        for (before, after) in [
            ("/x", "y"),
            ("/x?", "y"),
            ("/", ""),
            ("", ""),
            ("", "y/z"),
            ("http://a/", ""),
            ("http://a/?", ""),
        ] {
            let target = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            let taken = http::Uri::try_from(target.as_slice()).is_ok();
            let expected = taken && byte.is_ascii_graphic() && byte != b'#';
            let line = [b"GET ", target.as_slice(), b" HTTP/1.1\r\n", HOST.as_bytes(), b"\r\n"].concat();
            let text = line.escape_ascii();
            let (mut whole, mut singly) = (Framing::new(), Framing::new());
            let passes = whole.feed(&line).is_ok();
            assert_eq!(passes, line.iter().try_for_each(|byte| singly.feed(&[*byte])).is_ok(), "{text}");
            // An authority may be wrong in more ways than by its bytes.
            assert!(passes == expected || before.is_empty() && passes, "{text}: {passes}");
        }
    }
    let refused = [r"\admin", "ho^st:80", "?a", "\"", "/a<b", "/a?b\"c", "/a`"];
    for target in refused {
        let line = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n");
        assert_eq!(Framing::new().feed(line.as_bytes()), Err(Violation::RequestLine), "{target}");
    }
}

#[test]
fn every_byte_is_in_the_classes_that_the_specifications_say() {
    for byte in 0..=u8::MAX {
        let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        assert_eq!(is_token(byte), token, "{byte:#x}");
        assert_eq!(is_value(byte), byte == 9 || (byte >= 0x20 && byte != 0x7f), "{byte:#x}");
        let block = [[b'a'; 16], [byte; 16]].concat();
        assert_eq!(lines::value_run(&block), if is_value(byte) { 32 } else { 16 }, "{byte:#x}");
    }
}

#[test]
fn a_smuggled_request_is_seen_where_it_stands() {
    // What is behind the body of the first is the beginning of the second.
    let request = post("Content-Length: 5\r\n", "helloGARBAGE \n");
    assert_eq!(verdict(&request), Err(Violation::BareLineFeed));
    let inside = post("Content-Length: 30\r\n", "GET /admin HTTP/1.1\nHost : b\r\n\r\n");
    assert_eq!(verdict(&inside), Ok(()), "within the body nothing is looked at");
}

/// Pieces of requests, right and wrong, that meet in any order.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\nHost: a\r\n",
        "PUT / HTTP/1.0\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 12\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X: y\r\n",
        "X: y\n",
        " folded\r\n",
        "X : y\r\n",
        "\r\n",
        "\n",
        "\r",
        "abc",
        "3\r\nabc\r\n",
        "5;x=y\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\nT: u\r\n\r\n",
    ];
    prop_oneof![
        8 => prop::sample::select(known.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ]
}

/// A line like those of real heads, of every length, with a byte here and there that may not be in it.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => "[A-Za-z0-9-]{1,24}",
        1 => "(host|HOST|[Cc]ontent-[Ll]ength|[Tt]ransfer-[Ee]ncoding)[x]?",
    ];
    let value = prop_oneof![
        2 => "[ \\t]?[!-~ \\t]{0,70}",
        1 => "[ \\t]*([0-9]{1,20}|[Cc]hunked)[ \\t]*",
    ];
    let odd = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (name, value, odd).prop_map(|(name, value, odd)| {
        let mut line = format!("{name}:{value}\r\n").into_bytes();
        if let Some((place, byte)) = odd {
            let place = place.index(line.len());
            line[place] = byte;
        }
        line
    })
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        // A head of such lines, its request line perhaps wrong too.
        (
            "(\r\n)?(GET|m-search) (/|\\*|[!-~]{1,40}) HTTP/1\\.[0-2]\r\n",
            prop::bool::weighted(0.8),
            prop::collection::vec(line(), 0..6),
        )
            .prop_map(|(request, host, lines)| {
                let host: &[u8] = if host { b"Host: a\r\n" } else { b"" };
                [request.as_bytes(), host, &lines.concat(), b"\r\n"].concat()
            }),
        prop::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat()),
        // Mostly right, one byte changed.
        (prop::collection::vec(any::<prop::sample::Index>(), 0..3), any::<u8>(), 1usize..3).prop_map(
            |(places, byte, times)| {
                let mut bytes = [
                    chunked("5\r\nhello\r\n0\r\nT: u\r\n\r\n"),
                    post("Content-Length: 3\r\nX: y\r\n", "abc"),
                ]
                .concat()
                .repeat(times);
                for place in places {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                }
                bytes
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Fed singly, bytes never make a whole line: this compares the two ways to read one as well.
    #[test]
    fn the_verdict_does_not_depend_on_how_the_bytes_are_split(
        bytes in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = verdict(&bytes);
        let mut one_by_one = Framing::new();
        let singly = bytes.iter().try_for_each(|byte| one_by_one.feed(&[*byte]));
        prop_assert_eq!(whole, singly);
        let mut at_once = Framing::new();
        if at_once.feed(&bytes).is_ok() {
            prop_assert_eq!(standing(&at_once), standing(&one_by_one));
        }

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut framing = Framing::new();
        let cut = cuts.windows(2).try_for_each(|pair| framing.feed(&bytes[pair[0]..pair[1]]));
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn what_was_refused_stays_refused_whatever_follows(bytes in stream(), more in stream()) {
        if let Err(violation) = verdict(&bytes) {
            prop_assert_eq!(verdict(&[bytes, more].concat()), Err(violation));
        }
    }

    /// A head that passes means the same to the parser behind it: it ends in the same place.
    #[test]
    fn a_head_that_passes_ends_where_the_parser_behind_sees_its_end(bytes in stream()) {
        let mut fields = [httparse::EMPTY_HEADER; 200];
        if verdict(&bytes).is_err() {
            return Ok(());
        }
        match httparse::Request::new(&mut fields).parse(&bytes) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(end)) => {
                let mut framing = Framing::new();
                framing.feed(&bytes[..end]).unwrap();
                let after_head = matches!(
                    framing.state,
                    State::Start { .. } | State::Body { .. } | State::Size { .. }
                );
                prop_assert!(after_head, "{:?}", framing.state);
            }
            Err(error) => prop_assert!(false, "{error}: {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
}
