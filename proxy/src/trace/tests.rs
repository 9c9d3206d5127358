use http::{HeaderMap, HeaderName, HeaderValue};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn extract(lines: &[(&'static str, &str)], ratio: f64) -> TraceContext {
    TraceContext::extract(&headers(lines), ratio, &mut StdRng::seed_from_u64(7))
}

fn inject(context: &TraceContext, map: &mut HeaderMap, formats: &[TraceFormat]) {
    let there = Notable::of(map);
    context.inject(map, formats, there);
}

/// What the context says, without what is random.
fn said(context: &TraceContext) -> Option<(String, String, bool)> {
    context.parent.map(|parent| (context.trace_id.to_string(), parent.to_string(), context.sampled))
}

#[test]
fn a_valid_traceparent_is_the_parent() {
    let text = format!("00-{TRACE}-{SPAN}-01");
    let later_version = format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be");
    let later_bare = format!("cc-{TRACE}-{SPAN}-01");
    for value in [&text, &later_version, &later_bare] {
        let context = extract(&[("traceparent", value)], 0.0);
        assert_eq!(said(&context), Some((TRACE.into(), SPAN.into(), true)), "{value}");
        assert!(context.parent_is_remote);
        assert_ne!(context.span_id.to_string(), SPAN, "this hop has a span of its own");
    }
    for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
        let context = extract(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))], 1.0);
        assert_eq!(context.sampled, sampled, "{flags}");
    }
}

#[test]
fn a_malformed_traceparent_starts_a_new_trace() {
    let zeros = "0".repeat(32);
    for value in [
        String::new(),
        "00".into(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{TRACE}-{SPAN}-01."),
        format!("cc-{TRACE}-{SPAN}-01."),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("00-{zeros}-{SPAN}-01"),
        format!("00-{TRACE}-{}-01", &zeros[..16]),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
        format!("00-{TRACE}-{SPAN}-0A"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00_{TRACE}_{SPAN}_01"),
        format!("00-{}-{SPAN}-01", &TRACE[1..]),
        format!("00-{}g-{SPAN}-01", &TRACE[1..]),
        format!(" 00-{TRACE}-{SPAN}-01"),
    ] {
        let context = extract(&[("traceparent", &value)], 0.0);
        assert_eq!(said(&context), None, "{value:?}");
        assert!(!context.sampled, "{value:?}");
    }
    let good = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(said(&extract(&[("traceparent", &good), ("traceparent", &good)], 0.0)), None, "two of them");
}

#[test]
fn b3_is_read_in_both_forms() {
    let short = &TRACE[16..];
    let padded = format!("{}{short}", "0".repeat(16));
    for (value, trace, sampled) in [
        (format!("{TRACE}-{SPAN}-1"), TRACE, true),
        (format!("{TRACE}-{SPAN}-0"), TRACE, false),
        (format!("{TRACE}-{SPAN}-d"), TRACE, true),
        (format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90"), TRACE, true),
        (format!("{short}-{SPAN}-1"), padded.as_str(), true),
    ] {
        let context = extract(&[("b3", &value)], 0.5);
        assert_eq!(said(&context), Some((trace.into(), SPAN.into(), sampled)), "{value}");
    }
    let multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
    for (extra, sampled) in [
        (("x-b3-sampled", "1"), true),
        (("x-b3-sampled", "true"), true),
        (("x-b3-sampled", "0"), false),
        (("x-b3-flags", "1"), true),
    ] {
        let context = extract(&[multi[0], multi[1], extra], 0.0);
        assert_eq!(said(&context), Some((TRACE.into(), SPAN.into(), sampled)), "{extra:?}");
    }
}

#[test]
fn b3_without_a_decision_leaves_it_to_the_ratio() {
    for lines in [
        vec![("b3", format!("{TRACE}-{SPAN}"))],
        vec![("x-b3-traceid", TRACE.to_owned()), ("x-b3-spanid", SPAN.to_owned())],
    ] {
        let lines: Vec<_> = lines.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert!(!extract(&lines, 0.0).sampled);
        assert!(extract(&lines, 1.0).sampled);
    }
}

#[test]
fn a_b3_decision_alone_decides_a_new_trace() {
    for (line, sampled) in
        [(("b3", "0"), false), (("b3", "1"), true), (("b3", "d"), true), (("x-b3-sampled", "0"), false)]
    {
        let context = extract(&[line], if sampled { 0.0 } else { 1.0 });
        assert_eq!((context.parent, context.sampled), (None, sampled), "{line:?}");
    }
}

#[test]
fn malformed_b3_starts_a_new_trace() {
    let zeros = "0".repeat(32);
    for value in [
        String::new(),
        "x".into(),
        "2".into(),
        format!("{TRACE}-"),
        TRACE.to_owned(),
        format!("{TRACE}-{SPAN}-"),
        format!("{TRACE}-{SPAN}-true"),
        format!("{TRACE}-{SPAN}-1-zz"),
        format!("{TRACE}-{SPAN}-1-{SPAN}-1"),
        format!("{zeros}-{SPAN}-1"),
        format!("{TRACE}-{}-1", &zeros[..16]),
        format!("{}-{SPAN}-1", TRACE.to_uppercase()),
        format!("{}-{SPAN}-1", &TRACE[..24]),
    ] {
        assert_eq!(said(&extract(&[("b3", &value)], 0.0)), None, "{value:?}");
    }
    for lines in [
        &[("x-b3-traceid", TRACE)][..],
        &[("x-b3-spanid", SPAN)],
        &[("x-b3-traceid", TRACE), ("x-b3-spanid", "0000000000000000")],
        &[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "perhaps")],
        &[("x-b3-traceid", TRACE), ("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)],
    ] {
        assert_eq!(said(&extract(lines, 0.0)), None, "{lines:?}");
    }
}

#[test]
fn w3c_wins_over_b3_and_all_formats_tell_the_same_afterwards() {
    let other = "a".repeat(32);
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let single = format!("{other}-{SPAN}-0");
    let mut map = headers(&[
        ("traceparent", &traceparent),
        ("b3", &single),
        ("x-b3-traceid", &other),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", SPAN),
        ("x-b3-sampled", "0"),
    ]);
    let context = TraceContext::extract(&map, 0.0, &mut StdRng::seed_from_u64(1));
    assert_eq!(context.trace_id.to_string(), TRACE);
    inject(&context, &mut map, &[]);
    let span = context.span_id.to_string();
    assert_eq!(map["traceparent"], format!("00-{TRACE}-{span}-01"));
    assert_eq!(map["b3"], format!("{TRACE}-{span}-1-{SPAN}"));
    assert_eq!(map["x-b3-traceid"], TRACE);
    assert_eq!(map["x-b3-spanid"], span);
    assert_eq!(map["x-b3-parentspanid"], SPAN);
    assert_eq!(map["x-b3-sampled"], "1");
}

#[test]
fn what_came_is_passed_on_and_what_did_not_is_written_only_when_configured() {
    type Case = (&'static [(&'static str, &'static str)], &'static [TraceFormat], &'static [&'static str]);
    let cases: [Case; 5] = [
        (&[], &[TraceFormat::W3c], &["traceparent"]),
        (&[], &[], &[]),
        (&[("b3", "1")], &[TraceFormat::W3c], &["b3", "traceparent"]),
        (&[("x-b3-sampled", "1")], &[], &["x-b3-sampled", "x-b3-spanid", "x-b3-traceid"]),
        // Malformed: not a format that it came with, and not passed on.
        (&[("b3", "nonsense"), ("traceparent", "nonsense"), ("tracestate", "a=1")], &[], &[]),
    ];
    for (incoming, formats, expected) in cases {
        let mut map = headers(incoming);
        inject(&extract(incoming, 0.0), &mut map, formats);
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{incoming:?} {formats:?}");
    }
}

#[test]
fn short_b3_ids_stay_short_and_debug_stays_debug() {
    let mut map = headers(&[("b3", &format!("{SPAN}-{SPAN}-d"))]);
    let context = TraceContext::extract(&map, 0.0, &mut StdRng::seed_from_u64(1));
    inject(&context, &mut map, &[TraceFormat::B3Multi, TraceFormat::W3c]);
    let span = context.span_id;
    assert_eq!(map["b3"], format!("{SPAN}-{span}-d-{SPAN}"));
    assert_eq!(map["x-b3-traceid"], SPAN);
    assert_eq!(map["x-b3-flags"], "1");
    assert!(!map.contains_key("x-b3-sampled"), "debug implies it");
    assert_eq!(map["traceparent"], format!("00-{}{SPAN}-{span}-01", "0".repeat(16)));
}

#[test]
fn tracestate_and_baggage_go_on_unchanged_if_valid() {
    let traceparent = format!("00-{TRACE}-{SPAN}-00");
    let many: Vec<_> = (0..33).map(|n| format!("k{n}=v")).collect();
    let cases: [(&[&str], bool); 12] = [
        (&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], true),
        (&["a=1", "b=2 , c=3"], true),
        (&["tenant@vendor=x y", ""], true),
        (&["a=1,,b=2"], true),
        (&["a=1,a=2"], false),
        (&["a=1", "a=2"], false),
        (&["A=1"], false),
        (&["a"], false),
        (&["a="], false),
        (&["=1"], false),
        (&["a=1=2"], false),
        (&[&many.join(",")], false),
    ];
    for (lines, kept) in cases {
        let mut map = headers(&[("traceparent", &traceparent), ("baggage", "user=7;p, broken")]);
        for line in lines {
            map.append("tracestate", HeaderValue::from_str(line).unwrap());
        }
        let before: Vec<_> = map.get_all("tracestate").iter().cloned().collect();
        let context = TraceContext::extract(&map, 0.0, &mut StdRng::seed_from_u64(1));
        inject(&context, &mut map, &[TraceFormat::W3c]);
        let after: Vec<_> = map.get_all("tracestate").iter().cloned().collect();
        assert_eq!(after, if kept { before } else { vec![] }, "{lines:?}");
        assert_eq!(map["baggage"], "user=7;p, broken");
    }
}

#[test]
fn tracestate_without_a_valid_traceparent_is_dropped() {
    let mut map = headers(&[("tracestate", "a=1"), ("b3", &format!("{TRACE}-{SPAN}-1"))]);
    let context = TraceContext::extract(&map, 0.0, &mut StdRng::seed_from_u64(1));
    inject(&context, &mut map, &[TraceFormat::W3c]);
    assert!(!map.contains_key("tracestate"));
}

#[test]
fn the_ratio_decides_where_no_caller_did() {
    let mut rng = StdRng::seed_from_u64(99);
    for (ratio, least, most) in [(0.0, 0, 0), (1.0, 10_000, 10_000), (0.25, 2_300, 2_700)] {
        let empty = HeaderMap::new();
        let sampled = (0..10_000).filter(|_| TraceContext::extract(&empty, ratio, &mut rng).sampled).count();
        assert!((least..=most).contains(&sampled), "{ratio}: {sampled} of 10,000");
    }
}

#[test]
fn a_new_trace_says_that_its_id_is_random_and_an_old_one_keeps_what_it_said() {
    let mut map = HeaderMap::new();
    inject(&extract(&[], 1.0), &mut map, &[TraceFormat::W3c]);
    assert!(map["traceparent"].to_str().unwrap().ends_with("-03"));
    for flags in ["00", "01", "02", "03"] {
        let mut map = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))]);
        let context = TraceContext::extract(&map, 0.0, &mut StdRng::seed_from_u64(1));
        inject(&context, &mut map, &[]);
        assert!(map["traceparent"].to_str().unwrap().ends_with(flags), "{map:?}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_comes_one_context_goes_out_and_reads_back_the_same(
        parent in "[0-9a-fA-F-]{50,60}|00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
        single in "[0-9a-f]{16}(-[0-9a-f]{16}(-[01dx])?)?|[0-9a-f]{32}-[0-9a-f]{16}",
        state in "([a-z]{1,3}=[a-z]{0,2},?){0,3}",
        seed: u64,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut map = headers(&[("traceparent", &parent), ("b3", &single), ("tracestate", &state)]);
        let context = TraceContext::extract(&map, 0.5, &mut rng);
        inject(&context, &mut map, &[TraceFormat::W3c, TraceFormat::B3, TraceFormat::B3Multi]);
        for kept in [&["traceparent"][..], &["b3"], &["x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"]] {
            let mut one = map.clone();
            for name in ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"] {
                if !kept.contains(&name) {
                    one.remove(name);
                }
            }
            let next = TraceContext::extract(&one, 0.5, &mut rng);
            proptest::prop_assert_eq!(next.trace_id, context.trace_id);
            proptest::prop_assert_eq!(next.parent, Some(context.span_id));
            proptest::prop_assert_eq!(next.sampled, context.sampled);
        }
    }
}

#[test]
fn a_child_is_below_its_span_in_the_same_trace() {
    let context = extract(&[], 1.0);
    let child = context.child(&mut StdRng::seed_from_u64(3));
    assert_eq!(child.trace_id, context.trace_id);
    assert_eq!(child.parent, Some(context.span_id));
    assert!(!child.parent_is_remote && child.sampled);
    assert_ne!(child.span_id, context.span_id);
}
