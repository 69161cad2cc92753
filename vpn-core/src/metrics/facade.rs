//! To the `metrics` facade, version 0.24: to the recorder that is given, not to the global one.

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};

use super::{Family, Kind, Measured, Unit};

const METADATA: Metadata<'static> = Metadata::new("vpn", Level::INFO, Some(module_path!()));

/// Says what these families are.
pub fn describe(families: &[&'static Family], recorder: &dyn Recorder) {
    for family in families {
        let unit = match family.unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Bytes => metrics::Unit::Bytes,
            Unit::Seconds => metrics::Unit::Seconds,
        };
        let name = KeyName::from_const_str(family.name);
        match family.kind {
            Kind::Counter => recorder.describe_counter(name, Some(unit), family.help.into()),
            Kind::Gauge => recorder.describe_gauge(name, Some(unit), family.help.into()),
        }
    }
}

/// Sets every counter and gauge of something to its value now. To be called again and again, as often
/// as the recorder is looked at.
pub fn record(measured: &dyn Measured, recorder: &dyn Recorder) {
    measured.visit(&mut |metric| {
        let labels = metric.family.labels.iter().zip(metric.labels);
        let labels = labels.map(|(name, value)| Label::new(*name, (*value).to_owned()));
        let key = Key::from_parts(metric.family.name, labels.collect::<Vec<_>>());
        match metric.family.kind {
            Kind::Counter => recorder
                .register_counter(&key, &METADATA)
                .absolute(metric.value as u64),
            Kind::Gauge => recorder.register_gauge(&key, &METADATA).set(metric.value),
        }
    });
}
