//! Draws the peers of a mesh below its tunnel: by which way each is reached, and why. Pure.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use vpn_examples::draw::path_style;
use vpn_examples::mesh::{PeerReport, Report};

use super::snapshot::Tunnel;
use super::view::{DIM, left, right};
use super::words;

/// Peers of one mesh that are listed; `status` has all.
const LISTED: usize = 8;

/// Columns: name, path, endpoint, round trip. Why has the rest.
const WIDTHS: [usize; 4] = [12, 9, 22, 8];

/// Those that are listed: who moved most. Equal ones are in the order of the report.
pub(super) fn listed(tunnel: &Tunnel) -> Vec<&PeerReport> {
    let mut peers: Vec<&PeerReport> = tunnel.mesh.iter().flat_map(|mesh| &mesh.peers).collect();
    let moved = |peer: &PeerReport| peer.tx_bytes.saturating_add(peer.rx_bytes);
    peers.sort_by_key(|peer| std::cmp::Reverse(moved(peer)));
    peers.truncate(LISTED);
    peers
}

/// For the headline: how many there are, listed or not; nothing without a mesh.
pub(super) fn counted<'a>(tunnels: impl Iterator<Item = &'a Tunnel>) -> String {
    let meshes: Vec<&Report> = tunnels.filter_map(|tunnel| tunnel.mesh.as_ref()).collect();
    if meshes.is_empty() {
        return String::new();
    }
    let peers = || meshes.iter().flat_map(|mesh| &mesh.peers);
    let direct = peers().filter(|peer| peer.path == "direct").count();
    let relayed = peers().filter(|peer| peer.path.starts_with("relay"));
    let relayed = relayed.count();
    let all = peers().count();
    format!(", {all} peers: {direct} direct, {relayed} relayed")
}

pub(super) fn draw(frame: &mut Frame<'_>, at: Rect, peer: &PeerReport) {
    let endpoint = peer.endpoint.as_deref().unwrap_or("-");
    let round_trip = words::milliseconds(peer.rtt_ms);
    let line = Line::from(vec![
        Span::raw(format!("   {} ", left(peer.label(), WIDTHS[0]))),
        Span::styled(left(&peer.path, WIDTHS[1]), path_style(&peer.path)),
        Span::raw(format!(
            " {} {}",
            left(endpoint, WIDTHS[2]),
            right(&round_trip, WIDTHS[3])
        )),
        Span::styled(format!("  {}", peer.why), DIM),
    ]);
    frame.render_widget(line, at);
}
