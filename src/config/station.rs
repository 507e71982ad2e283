//! The settings of the station: where alerts go, and whether the collector registers
//! there and beats.

use pap_core::agent_id::path_segment;
use pap_process::settings::{ConfigError, Reader, Secret};
use pap_process::url::Url;
use ureq::tls::Certificate;

use super::settings::{ALERT_RECOVERY, STATION_ALERT_KEY, STATION_ALERT_URL, STATION_URL};

/// A URL at the station, and what is needed to post there.
#[derive(Clone, Debug)]
pub struct StationAccess {
    /// The whole URL.
    pub url: Url,
    /// The setting to look at when nothing is found at the URL.
    pub url_name: &'static str,
    /// Sent as `Authorization: Bearer KEY`.
    pub key: Secret,
    /// Certificates trusted besides the built-in roots.
    pub roots: Vec<Certificate<'static>>,
}

/// What the collector tells the station.
pub(super) struct Station {
    /// Where alerts are posted; None when no alert is posted to a station.
    pub alerts: Option<StationAccess>,
    /// This cluster at a pap-station; None without one.
    pub cluster: Option<StationAccess>,
    /// Whether recoveries are told.
    pub recoveries: bool,
}

impl Station {
    /// The station, as far as one is configured.
    ///
    /// # Errors
    /// A setting is wrong, or there is a `STATION_URL` without a key.
    pub(super) fn read(
        from: &mut Reader<'_>,
        cluster_id: &str,
        roots: &[Certificate<'static>],
        has_alertmanager: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let encoded = path_segment(cluster_id);
        let station = from.url(&STATION_URL, str::to_owned)?;
        let given = from.url(&STATION_ALERT_URL, |raw| raw.replace("{cluster_id}", &encoded))?;
        let key = from.secret(&STATION_ALERT_KEY)?;
        let cluster = station.map(|url| url.join(&format!("/api/clusters/{encoded}")));
        let (url, url_name) = match (given, &cluster) {
            (Some(url), _) => (Some(url), STATION_ALERT_URL.name),
            (None, Some(cluster)) => (Some(cluster.join("/alerts")), STATION_URL.name),
            (None, None) => (None, STATION_ALERT_URL.name),
        };
        let follows = url_name == STATION_URL.name;
        if let Some(url) = url.as_ref().filter(|_| follows) {
            from.show(&STATION_ALERT_URL, url);
        }
        let recoveries = from.value_or(&ALERT_RECOVERY, || follows)?;
        if cluster.is_some() && key.is_none() {
            let needed =
                "the key of STATION_URL, which the collector sends when it registers, beats and posts alerts";
            return Err(ConfigError::new(STATION_ALERT_KEY.name, None, needed));
        }
        let so = if has_alertmanager { "no station gets alerts" } else { "alerts are only logged" };
        let mut warn = |missing: &str| {
            warnings.push(format!("{missing} is not set, so {so}; set it to post them to the station"));
        };
        let access = |url, url_name, key: &Secret| StationAccess {
            url,
            url_name,
            key: key.clone(),
            roots: roots.to_vec(),
        };
        let (mut alerts, mut registered) = (None, None);
        match (url, key) {
            (Some(url), Some(key)) => {
                alerts = Some(access(url, url_name, &key));
                registered = cluster.map(|url| access(url, STATION_URL.name, &key));
            }
            (Some(_), None) => warn(STATION_ALERT_KEY.name),
            (None, Some(_)) => warn(STATION_ALERT_URL.name),
            (None, None) => {}
        }
        Ok(Self { alerts, cluster: registered, recoveries })
    }
}

#[cfg(test)]
mod tests {
    use pap_process::settings::Flags;

    use super::super::Config;

    fn config(variables: &[(&str, &str)]) -> Result<Config, String> {
        let all = [&[("CLUSTER_ID", "a b"), ("STATION_ALERT_KEY", "k")], variables].concat();
        let given = |name: &str| {
            let found = all.iter().rfind(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::new(&Flags::default(), &given).map_err(|error| error.to_string())
    }

    /// Where alerts go, where the collector registers, and whether recoveries are told.
    fn urls(variables: &[(&str, &str)]) -> (String, String, bool) {
        let config = config(variables).unwrap();
        let url = |access: &Option<super::StationAccess>| {
            access.as_ref().map(|access| access.url.as_str().to_owned()).unwrap_or_default()
        };
        (url(&config.station), url(&config.cluster), config.rules.recovery_alerts)
    }

    #[test]
    fn the_stations_url_suffices_and_an_alert_url_wins() {
        let station = ("STATION_URL", "https://s/below/");
        let alerts = ("STATION_ALERT_URL", "http://c/x/{cluster_id}");
        let at = |text: &str| text.to_owned();
        let cluster = at("https://s/below/api/clusters/a%20b");
        assert_eq!(urls(&[station]), (format!("{cluster}/alerts"), cluster.clone(), true));
        assert!(!urls(&[station, ("ALERT_RECOVERY", "false")]).2);
        assert_eq!(urls(&[station, alerts]), (at("http://c/x/a%20b"), cluster, false));
        assert_eq!(urls(&[alerts]), (at("http://c/x/a%20b"), at(""), false));
        assert_eq!(urls(&[]), (at(""), at(""), false));
        let shown = config(&[station]).unwrap().to_text().to_owned();
        assert!(shown.contains("STATION_ALERT_URL=https://s/below/api/clusters/a%20b/alerts\n"), "{shown}");
        assert!(shown.contains("ALERT_RECOVERY=true\n"), "{shown}");
    }

    #[test]
    fn a_stations_url_needs_a_key() {
        let error = config(&[("STATION_URL", "https://s"), ("STATION_ALERT_KEY", "")]).unwrap_err();
        assert!(error.starts_with("STATION_ALERT_KEY is not set; needed: the key of STATION_URL"), "{error}");
        let both =
            [("STATION_URL", "https://s"), ("STATION_ALERT_URL", "http://c"), ("STATION_ALERT_KEY", "")];
        assert!(config(&both).unwrap_err().starts_with("STATION_ALERT_KEY is not set"));
    }
}
