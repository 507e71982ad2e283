//! Which events a channel wants, and at which hours.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use pap_core::alert::Severity;
use pap_core::time::Wall;
use serde::{Deserialize, Serialize};

use crate::event::Event;

/// The most entries of a list.
const MAX_ENTRIES: usize = 1000;

/// Which events a channel wants. A list that is absent lets everything pass; lists are joined
/// by AND. What happens in a cluster or at a machine is looked up in the list of clusters or of
/// machines; if only the other of these two lists is there, it does not pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// Names of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Ids of clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Vec<String>>,
    /// Ids of machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<Vec<i64>>,
    /// Severities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severities: Option<Vec<Severity>>,
}

/// Where something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In a cluster with this id.
    Cluster(&'a str),
    /// At a machine with this id.
    Machine(i64),
    /// To an agent that beats at the station.
    Station,
}

impl Filters {
    /// Whether all names are known and no list is too long.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if let Some(unknown) = self.events.iter().flatten().find(|name| Event::from_name(name).is_none()) {
            let known: Vec<_> = Event::ALL.iter().map(|event| event.name()).collect();
            return Err(format!("there is no event {unknown:?}; known: {}", known.join(", ")));
        }
        let lengths = [
            self.events.as_ref().map_or(0, Vec::len),
            self.clusters.as_ref().map_or(0, Vec::len),
            self.machines.as_ref().map_or(0, Vec::len),
        ];
        if lengths.iter().any(|&length| length > MAX_ENTRIES) {
            return Err(format!("a list of filters has at most {MAX_ENTRIES} entries"));
        }
        Ok(())
    }

    /// Whether an event is wanted.
    pub fn pass(&self, event: Event, place: Place<'_>) -> bool {
        let is_of_event = self.events.as_ref().is_none_or(|names| names.iter().any(|it| it == event.name()));
        let is_severe = self.severities.as_ref().is_none_or(|all| all.contains(&event.severity()));
        let is_at_place = match (place, &self.clusters, &self.machines) {
            (_, None, None) => true,
            (Place::Cluster(id), Some(clusters), _) => clusters.iter().any(|it| it == id),
            (Place::Machine(id), _, Some(machines)) => machines.contains(&id),
            _ => false,
        };
        is_of_event && is_severe && is_at_place
    }
}

/// Quiet hours: nothing is sent to the channel then. What happens in them is told afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// From this time of day on, `HH:MM`,
    pub from: String,
    /// to this one, which may be of the next day.
    pub to: String,
    /// A time zone's IANA name.
    pub timezone: String,
}

impl QuietHours {
    /// Whether the times and the zone are known.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        for text in [&self.from, &self.to] {
            if time(text).is_none() {
                return Err(format!("{text:?} is no time of day such as 22:00"));
            }
        }
        TimeZone::get(&self.timezone)
            .map(|_| ())
            .map_err(|_| format!("{:?} is no IANA time zone such as Europe/Berlin", self.timezone))
    }

    /// How long it is quiet from `now` on; None if it is not.
    pub fn left(&self, now: Wall) -> Option<Duration> {
        let (from, to) = (time(&self.from)?, time(&self.to)?);
        let zone = TimeZone::get(&self.timezone).ok()?;
        let now = Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?.to_zoned(zone);
        let at = now.time();
        let is_quiet = if from <= to { from <= at && at < to } else { from <= at || at < to };
        if !is_quiet {
            return None;
        }
        let today = at_time(&now, to)?;
        let end = if today > now { today } else { at_time(&now.tomorrow().ok()?, to)? };
        Duration::try_from(now.duration_until(&end)).ok()
    }
}

/// The same day at another time. If the clock is put forward over that time, the moment after.
fn at_time(day: &Zoned, time: Time) -> Option<Zoned> {
    day.with().time(time).build().ok()
}

fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| if text.len() == 2 { text.parse::<i8>().ok() } else { None };
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_joined_by_and() {
        let all = Filters::default();
        assert!(
            all.pass(Event::AgentDead, Place::Cluster("a"))
                && all.pass(Event::MachineOffline, Place::Machine(1))
        );
        let some = Filters {
            clusters: Some(vec!["a".into()]),
            severities: Some(vec![Severity::Critical]),
            ..Filters::default()
        };
        assert!(some.pass(Event::AgentDead, Place::Cluster("a")));
        assert!(some.pass(Event::AgentRecovered, Place::Cluster("a")), "as severe as its incident");
        assert!(!some.pass(Event::AgentDead, Place::Cluster("b")));
        assert!(!some.pass(Event::AgentEmergency, Place::Cluster("a")));
        assert!(!some.pass(Event::MachineOffline, Place::Machine(1)));
        let both = Filters { machines: Some(vec![1]), ..some };
        assert!(
            both.pass(Event::MachineOffline, Place::Machine(1))
                && both.pass(Event::AgentDead, Place::Cluster("a"))
        );
        let wrong = Filters { events: Some(vec!["agent.died".into()]), ..all };
        assert!(wrong.check().unwrap_err().contains("agent.emergency_over"));
    }

    #[test]
    fn quiet_hours_follow_their_zone_and_its_summer_time() {
        let at =
            |text: &str| Wall(u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap());
        let quiet = |from: &str, to: &str| QuietHours {
            from: from.into(),
            to: to.into(),
            timezone: "Europe/Berlin".into(),
        };
        let night = quiet("22:00", "07:00");
        night.check().unwrap();
        assert_eq!(night.left(at("2026-01-10T20:59:00Z")), None);
        assert_eq!(night.left(at("2026-01-10T21:00:00Z")), Some(Duration::from_secs(9 * 3600)));
        assert_eq!(night.left(at("2026-01-11T05:59:00Z")), Some(Duration::from_secs(60)));
        assert_eq!(night.left(at("2026-01-11T06:00:00Z")), None);
        // The night in which clocks are put forward is an hour shorter.
        assert_eq!(night.left(at("2026-03-28T21:00:00Z")), Some(Duration::from_secs(8 * 3600)));
        let noon = quiet("12:00", "13:30");
        assert_eq!(noon.left(at("2026-07-01T11:00:00Z")), Some(Duration::from_secs(1800)));
        assert_eq!(noon.left(at("2026-07-01T11:30:00Z")), None);
        assert_eq!(quiet("08:00", "08:00").left(at("2026-07-01T06:00:00Z")), None);
        for wrong in [quiet("8:00", "09:00"), quiet("24:00", "09:00"), quiet("08:00", "0900")] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        assert!(QuietHours { timezone: "Mars/Olympus".into(), ..noon }.check().is_err());
    }
}
