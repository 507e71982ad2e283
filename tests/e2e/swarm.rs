//! `examples/swarm` against the real collector: what its table says is what happened.

use std::time::Duration;

use argh::FromArgs as _;

use crate::play::{Options, Report, play};
use crate::support::station::{Answer as Reply, Station};
use crate::support::{Collector, Port};

fn swarm(port: u16, arguments: &str) -> Report {
    let url = format!("--collector http://127.0.0.1:{port} {arguments}");
    let arguments: Vec<_> = url.split_whitespace().collect();
    let report = play(&Options::from_args(&["swarm"], &arguments).unwrap()).unwrap();
    report.print();
    report
}

/// A collector with this grace, and a port on which a swarm plays its station.
fn collector_for_a_swarm(grace_ms: &str) -> (Collector, Port) {
    let station = Port::reserve();
    let url = format!("http://127.0.0.1:{}/api/clusters/{{cluster_id}}/alerts", station.number);
    let variables = [
        ("STATION_ALERT_URL", url.as_str()),
        ("STATION_ALERT_KEY", "k"),
        ("ALERT_QUEUE_MAX_SIZE", "10000"),
        ("HEARTBEAT_GRACE_MS", grace_ms),
    ];
    (Collector::start(&variables), station)
}

#[test]
fn the_swarms_killed_agents_are_the_deaths_told() {
    // A busy machine may send a heartbeat late: with this grace it may be more than a
    // second late, and still no single loss is a death.
    let (collector, station) = collector_for_a_swarm("2000");
    let arguments = "--agents 300 --mix 40:55:5 --die 20 --restart 10 --alarm 10 --seconds 22 --lose 5";
    let report = swarm(
        collector.port,
        &format!("{arguments} --jitter 5 --grace-ms 2000 --station {}", station.number),
    );
    let (tally, verdicts) = (&report.tally, report.verdicts.as_ref().unwrap());
    assert_eq!((verdicts.correct, verdicts.missed, verdicts.twice), (20, 0, 0));
    assert_eq!((verdicts.false_deaths, verdicts.early, verdicts.refused), (0, 0, 0));
    assert!(report.is_good() && tally.lost > 0 && verdicts.restarts > 0);
    // At first contact an agent in EMERGENCY is told too.
    assert!(verdicts.emergencies > 120, "{}", verdicts.emergencies);
    assert_eq!((tally.answered, tally.errors(), tally.refused), (tally.sent, 0, 0));
    let accepted = collector.metric("heartbeats_total{mode=\"EMERGENCY\"}")
        + collector.metric("heartbeats_total{mode=\"IDLE\"}")
        + collector.metric("heartbeats_total{mode=\"SLEEP\"}");
    assert_eq!(accepted, tally.answered as f64);
    assert_eq!(collector.get("/health").json()["agents"]["total"], 0, "everybody said goodbye");
}

#[test]
fn two_lost_in_a_row_are_a_death_that_is_told() {
    let (collector, station) = collector_for_a_swarm("500");
    let arguments = "--agents 100 --mix 1:0:0 --seconds 25 --lose 10 --lose-two --grace-ms 500";
    let report = swarm(collector.port, &format!("{arguments} --station {}", station.number));
    let verdicts = report.verdicts.as_ref().unwrap();
    assert!(report.is_good(), "{verdicts:?}");
    assert!(verdicts.correct >= 10, "{verdicts:?}");
    assert_eq!(verdicts.correct as f64, collector.metric("deaths_total"));
}

#[test]
fn agents_share_connections_as_asked() {
    let collector = Collector::start(&[]);
    let run = |arguments: &str| {
        let report =
            swarm(collector.port, &format!("--agents 50 --seconds 2 --every 0.5 --seed 3 {arguments}"));
        assert_eq!((report.tally.errors(), report.tally.answered), (0, report.tally.sent));
        assert!(report.tally.answered > 50);
        (report.connections, report.tally.sent)
    };
    assert_eq!(run("").0, 50);
    assert_eq!(run("--connections 7").0, 7);
    let done = || collector.metric("connections_closed_total{reason=\"done\"}");
    let before = done();
    let (opened, sent) = run("--fresh");
    assert_eq!(opened, sent + 50, "one for each heartbeat and goodbye");
    assert!(done() - before >= opened as f64, "the collector closed each");
}

#[test]
fn an_agent_whose_connection_was_closed_connects_again() {
    // There may be fewer connections than agents, so the idlest ones are closed.
    let collector = Collector::start(&[("COLLECTOR_MAX_CONNECTIONS", "20")]);
    let report = swarm(collector.port, "--agents 50 --seconds 3 --every 0.5");
    let tally = &report.tally;
    assert!(report.connections > 100, "{} connections", report.connections);
    // A heartbeat that was on its way when the connection was closed is not sent again.
    assert_eq!(tally.answered + tally.resets, tally.sent, "{:?}", tally.first_error);
    assert!(tally.answered > 0);
}

#[test]
fn what_goes_wrong_is_counted_by_kind() {
    let run = |port| swarm(port, "--agents 8 --seconds 4 --every 1000");
    let wrong = Station::start(0, |post| match post.path.chars().last() {
        Some('0' | '1') => Reply::Status(200),
        Some('2') => Reply::Status(503),
        // The connection is closed.
        Some('3'..='5') => Reply::Silence(Duration::ZERO),
        _ => Reply::Silence(Duration::from_secs(60)),
    })
    .unwrap();
    let tally = run(wrong.port).tally;
    assert_eq!((tally.sent, tally.answered, tally.refused), (8, 2, 1));
    assert_eq!((tally.resets, tally.time_outs, tally.errors()), (3, 2, 5));
    let nobody = Port::reserve();
    let tally = run(nobody.number).tally;
    assert_eq!((tally.not_connected, tally.errors(), tally.answered), (8, 8, 0));
}
