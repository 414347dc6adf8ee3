use super::*;
use crate::practice::words::Cause;
use crate::practice::words::Style;

const LEAST: &str = "load { messages_per_hour = 60 }\nbinding a { address = 127.0.1.1 }\n";

fn errors(text: &str) -> Vec<String> {
    let source = SourceFile {
        name: "x".to_string(),
        text: text.to_string(),
    };
    match read(source) {
        Ok(scenario) => panic!("taken: {scenario:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_help_shows_is_a_scenario() {
    let text: Vec<&str> = FORMAT.lines().filter(|it| it.starts_with("  ")).collect();
    let scenario = for_tests(&text.join("\n"));
    let provider = &scenario.providers[0];
    assert_eq!(provider.domains, ["big.example"]);
    assert_eq!(provider.hosts, ["mx1.big.example", "mx2.big.example"]);
    assert_eq!(provider.words.style, Style::Google);
    assert_eq!(provider.words.of(Cause::Rate), "451 4.7.1 slower");
    let [first, second] = &provider.phases[..] else {
        panic!("two phases: {:?}", provider.phases);
    };
    assert_eq!(first.limits.rates.len(), 3);
    assert_eq!(second.from_us, 6 * HOUR);
    assert_eq!(second.limits.rates.len(), 1);
    assert_eq!(second.limits.connections, first.limits.connections);
    assert_eq!(provider.blocks[0].binding, Some(0));
    assert_eq!(provider.outages[0].to_us, 4 * HOUR + 600 * SECOND);
    assert_eq!(scenario.load.until_us, 23 * HOUR);
    assert_eq!(scenario.load.messages(), 12 * 1_000 + 11 * 5_000);
    assert_eq!(scenario.goals.lifted_us, HOUR);
}

#[test]
fn what_is_not_said_has_a_usual_value_and_zero_lifts_a_limit() {
    let text = format!("{LEAST} provider p {{ connections = 3 at 1h {{ connections = 0 }} }}");
    let scenario = for_tests(&text);
    assert_eq!((scenario.duration_us, scenario.seed), (DAY, 1));
    assert_eq!(scenario.load.sizes, [1_024]);
    let provider = &scenario.providers[0];
    assert_eq!(provider.limits(0).connections, Some(3));
    assert_eq!(provider.limits(HOUR - 1).connections, Some(3));
    assert_eq!(provider.limits(HOUR).connections, None);
    assert_eq!(provider.next_phase_us(0), Some(HOUR));
    assert_eq!(provider.next_phase_us(HOUR), None);
}

/// What is wrong, where that is told, and some of what was expected.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "provider p { conections = 3 }",
        "3:14",
        "did you mean \"connections\"?",
    ),
    (
        "provider p { connections = many }",
        "3:28",
        "a whole number from 0 to 1000000",
    ),
    (
        "provider p { rate = \"5/\" }",
        "3:21",
        "expected N, N/SECONDS",
    ),
    (
        "provider p { latency = ( 2s 1s ) }",
        "3:24",
        "the least and the most",
    ),
    (
        "provider p { at 2h { } at 1h { } }",
        "3:27",
        "each later than the one before",
    ),
    (
        "provider p { at 1h { share = 2 } }",
        "3:22",
        "one of connections",
    ),
    (
        "provider p { block { binding = z from = 1h to = 2h } }",
        "3:32",
        "a binding",
    ),
    (
        "provider p { block { from = 2h to = 1h } }",
        "3:14",
        "a later time",
    ),
    (
        "provider p { at \"25:00\" { rate = 5 } }",
        "3:17",
        "the scenario takes 1d",
    ),
    (
        "provider p { outage { from = 24h to = 25h } }",
        "3:30",
        "a time before the end",
    ),
    (
        "provider p { outage { from = 2h } }",
        "3:14",
        "a later time",
    ),
    (
        "provider p { volume { least = 9 most = 2 } }",
        "3:14",
        "most not below it",
    ),
    (
        "provider p { words = nobody }",
        "3:22",
        "one of plain, google",
    ),
    (
        "provider p { replies { rate = \"250 fine\" } }",
        "3:31",
        "fours or fives",
    ),
    (
        "provider p { domains = ( a.example a.example ) }",
        "3:36",
        "each once",
    ),
    (
        "provider p { mx = h.example } provider q { mx = h.example }",
        "3:49",
        "hosts of its own",
    ),
    (
        "provider p { mx = 17 }",
        "3:19",
        "a whole number from 1 to 16",
    ),
    ("provider { }", "3:1", "1 to 63 letters"),
    ("provider p { } provider p { }", "3:16", "another name"),
    ("provider p { } include \"x\"", "3:24", "one of duration"),
    (
        "provider p { } goals { settles = 2d }",
        "3:34",
        "before the end",
    ),
    (
        "provider p { } binding a { address = 127.0.1.1 }",
        "3:16",
        "another name",
    ),
    (
        "provider p { } binding c { address = 127.0.1.1 }",
        "3:38",
        "of its own",
    ),
    ("provider p { } binding c { address = ::1 }", "3:38", "IPv4"),
    (
        "provider p { } load { messages_per_hour = 1 }",
        "3:16",
        "one of them",
    ),
    ("provider p { } duration = 0s", "3:27", "from 1 second"),
    ("provider p {", "3:12", "a matching `}`"),
];

#[test]
fn every_mistake_has_its_place_and_what_was_expected() {
    for (text, place, expected) in MISTAKES {
        let found = errors(&format!("{LEAST}{text}"));
        let at = format!("x:{place}: error: ");
        let told = found
            .iter()
            .any(|it| it.starts_with(&at) && it.contains(expected));
        assert!(told, "{text}\n{}", found.join("\n"));
    }
    let bare = errors("");
    for what in ["no load", "no binding", "no provider"] {
        assert!(bare.iter().any(|it| it.contains(what)), "{what}: {bare:?}");
    }
    let much = errors("load { messages_per_hour = 20000000 }");
    assert!(
        much[0].contains("at most 20000000 in the whole run"),
        "{much:?}"
    );
}
