//! The settings of the cluster by name.

use super::{Decision, OrderRefusal, nothing, one, refuse};
use crate::node::cluster::map::{Map, MapEdit, MapSettings, NodeState, Rejoin};
use crate::node::limits;
use corelith_wire::cluster::ViewSetting;

/// The names, and what is allowed for each.
const SETTINGS: [(&str, &str); 8] = [
    ("replicas", "replicas of each shard"),
    ("reads", "what leaders rely on for reads: lease or quorum"),
    (
        "rebuild_after_s",
        "seconds after which a silent node's replicas are made anew elsewhere",
    ),
    ("moves_max", "moves at once in the cluster"),
    (
        "moves_per_node_max",
        "moves at once that a node takes part in",
    ),
    (
        "copy_bytes_per_second",
        "bytes a second of all copies to a node, 0 for no limit",
    ),
    (
        "rejoin",
        "whether an empty store is taken in as its node by itself: auto or manual",
    ),
    (
        "balance",
        "whether replicas and leads are evened out: on or off",
    ),
];

/// The names of all settings.
pub fn setting_names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(name, _)| *name)
}

/// All settings as they are.
pub fn settings_shown(settings: &MapSettings) -> Vec<ViewSetting> {
    let shown = SETTINGS.iter().map(|(key, _)| ViewSetting {
        key: (*key).to_owned(),
        value: shown(settings, key),
    });
    shown.collect()
}

fn shown(settings: &MapSettings, key: &str) -> String {
    match key {
        "replicas" => settings.replicas.to_string(),
        "reads" if settings.reads == 0 => "lease".to_owned(),
        "reads" => "quorum".to_owned(),
        "rebuild_after_s" => settings.rebuild_after_s.to_string(),
        "moves_max" => settings.moves_max.to_string(),
        "moves_per_node_max" => settings.moves_per_node_max.to_string(),
        "copy_bytes_per_second" => settings.copy_bytes_per_second.to_string(),
        "rejoin" if settings.rejoin == Rejoin::Auto => "auto".to_owned(),
        "rejoin" => "manual".to_owned(),
        "balance" if settings.balance => "on".to_owned(),
        _ => "off".to_owned(),
    }
}

fn within(key: &str, value: &str, min: u64, max: u64) -> Result<u64, OrderRefusal> {
    let number = value.parse().ok();
    match number.filter(|number| (min..=max).contains(number)) {
        Some(number) => Ok(number),
        None => refuse(format!("{key}: {value:?} is not allowed: {min} to {max}")),
    }
}

/// The same as a smaller number; the bounds make it one.
fn small(key: &str, value: &str, min: u32, max: u32) -> Result<u32, OrderRefusal> {
    let number = within(key, value, min.into(), max.into())?;
    u32::try_from(number).map_err(|_| OrderRefusal(format!("{key}: {value:?} is not allowed")))
}

fn either(key: &str, value: &str, [yes, no]: [&str; 2]) -> Result<bool, OrderRefusal> {
    match value {
        _ if value == yes => Ok(true),
        _ if value == no => Ok(false),
        _ => refuse(format!("{key}: {value:?} is not allowed: {yes} or {no}")),
    }
}

pub(super) fn set(map: &Map, key: &str, value: &str) -> Result<Decision, OrderRefusal> {
    let mut settings = map.settings;
    match key {
        "replicas" => settings.replicas = replicas(map, value)?,
        "reads" => {
            return refuse(
                "reads cannot be set while nodes run: stop all of them, set `cluster.reads` in their configurations and \
                 start them again",
            );
        }
        "rebuild_after_s" => {
            let (min, max) = (limits::REBUILD_AFTER_S_MIN, limits::REBUILD_AFTER_S_MAX);
            settings.rebuild_after_s = small(key, value, min, max)?;
        }
        "moves_max" => settings.moves_max = small(key, value, 1, limits::MOVES_MAX)?,
        "moves_per_node_max" => {
            settings.moves_per_node_max = small(key, value, 1, limits::MOVES_PER_NODE_MAX)?;
        }
        "copy_bytes_per_second" => {
            let (min, max) = (
                limits::COPY_BYTES_PER_SECOND_MIN,
                limits::COPY_BYTES_PER_SECOND_MAX,
            );
            settings.copy_bytes_per_second = match value {
                "0" => 0,
                value => within(key, value, min, max).map_err(|OrderRefusal(why)| {
                    OrderRefusal(format!("{why}, or 0 for no limit"))
                })?,
            };
        }
        "rejoin" => {
            let is_auto = either(key, value, ["auto", "manual"])?;
            settings.rejoin = if is_auto {
                Rejoin::Auto
            } else {
                Rejoin::Manual
            };
        }
        "balance" => settings.balance = either(key, value, ["on", "off"])?,
        _ => {
            let names: Vec<&str> = setting_names().collect();
            return refuse(format!(
                "there is no setting {key:?}; there are {}",
                names.join(", ")
            ));
        }
    }
    let (before, after) = (shown(&map.settings, key), shown(&settings, key));
    if before == after {
        return Ok(nothing(format!("{key} is {after} already")));
    }
    Ok(one(
        MapEdit::Settings(settings),
        format!("{key} is {after}; it was {before}"),
    ))
}

fn replicas(map: &Map, value: &str) -> Result<u32, OrderRefusal> {
    let replicas = small("replicas", value, 1, limits::REPLICAS_MAX)?;
    let active = map
        .live_nodes()
        .filter(|(_, node)| node.state == NodeState::Active);
    match active.count() {
        active if active < replicas as usize => refuse(format!(
            "replicas: {replicas} need as many nodes, and there are {active} that are not drained: add nodes first"
        )),
        _ => Ok(replicas),
    }
}
