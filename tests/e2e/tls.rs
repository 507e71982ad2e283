//! Which certificates of a station are trusted.

use rcgen::{CertificateParams, date_time_ymd};

use crate::support::station::{Answer as Reply, Station};
use crate::support::{Collector, PATIENCE, tls, uuid};
use tempfile::NamedTempFile;

fn collector(station: &Station, ca_file: &NamedTempFile) -> Collector {
    let url = format!("https://localhost:{}/api/clusters/{{cluster_id}}/alerts", station.port);
    let ca_file = ca_file.path().to_str().unwrap();
    let variables =
        [("STATION_ALERT_URL", url.as_str()), ("STATION_ALERT_KEY", "k"), ("STATION_CA_FILE", ca_file)];
    let collector = Collector::start(&variables);
    collector.beat(&uuid(1), "EMERGENCY", 1.0);
    collector
}

#[test]
fn a_server_may_show_the_very_certificate_that_the_file_holds() {
    for names in [["localhost"].as_slice(), &[]] {
        let (station, file) = tls::own_certificate(names, |_| {}, |post| Reply::Status(post.judge("k")));
        let _collector = collector(&station, &file);
        let is_told = station.wait_until(PATIENCE, |posts| posts.iter().any(|post| post.status == 201));
        assert!(is_told, "names: {names:?}");
    }
}

#[test]
fn it_is_still_refused_for_another_host_and_after_its_time() {
    let expired = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let (other_host, its_file) = tls::own_certificate(&["station.example"], |_| {}, |_| Reply::Status(201));
    let (late, late_file) = tls::own_certificate(&["localhost"], expired, |_| Reply::Status(201));
    let (another, _) = tls::own_certificate(&["localhost"], |_| {}, |_| Reply::Status(201));
    for (station, file, why) in [
        (&other_host, &its_file, "station.example"),
        (&late, &late_file, "expired"),
        (&another, &its_file, "UnknownIssuer"),
    ] {
        let line = collector(station, file).await_log("no answer");
        assert!(line.contains(why), "{line}");
        assert_eq!(station.posts().len(), 0);
    }
}
