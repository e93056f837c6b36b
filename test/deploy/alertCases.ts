/** For each alert, series that must make it fire and series that must not, in the notation of `promtool test rules`. */

const at = "job=\"file-replication\",instance=\"a\""
const of = (name: string, labels = "") => `file_replication_${name}{${at}${labels === "" ? "" : `,${labels}`}}`

export interface AlertCase {
  readonly alert: string
  /** It fires at `firesAt`, and not at the start. */
  readonly bad: Readonly<Record<string, string>>
  readonly good: Readonly<Record<string, string>>
  readonly firesAt: string
  /** What the alert then carries, besides its name and severity, separated by spaces. */
  readonly labels?: string
}

const plain = at.replaceAll(",", " ")

export const cases: ReadonlyArray<AlertCase> = [
  {
    alert: "FileReplicationNodeDown",
    bad: { [`up{${at}}`]: "0x10" },
    good: { [`up{${at}}`]: "1x10" },
    firesAt: "5m",
    labels: plain
  },
  {
    alert: "FileReplicationNotReady",
    bad: { [of("ready")]: "0x30" },
    // Now and then not ready, as with every new file.
    good: { [of("ready")]: "0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1" },
    firesAt: "20m",
    labels: plain
  },
  {
    alert: "FileReplicationLagging",
    bad: { [of("oldest_owed_seconds")]: "0+60x60" },
    good: { [of("oldest_owed_seconds")]: "0 60 120 0 60 120 0 60 120 0x50" },
    firesAt: "40m",
    labels: plain
  },
  {
    alert: "FileReplicationNotMoving",
    bad: { [of("owed_files")]: "3x40", [of("received_bytes_total", "peer=\"b\"")]: "500x40" },
    good: { [of("owed_files")]: "3x40", [of("received_bytes_total", "peer=\"b\"")]: "0+500x40" },
    firesAt: "25m",
    labels: plain
  },
  {
    alert: "FileReplicationPaused",
    bad: { [of("pulling_paused")]: "1x90" },
    good: { [of("pulling_paused")]: "1x30 0x60" },
    firesAt: "70m",
    labels: plain
  },
  {
    alert: "FileReplicationCorruptPeer",
    bad: { [of("mismatches_total", "peer=\"b\"")]: "0 0 0 1 1 1 1 1 1 1" },
    good: { [of("mismatches_total", "peer=\"b\"")]: "7x10" },
    firesAt: "8m",
    labels: "peer=\"b\""
  },
  {
    alert: "FileReplicationLocalFilesLost",
    bad: { [of("local_files_lost_total", "why=\"damaged\"")]: "0 0 0 1 1 1 1 1 1 1" },
    good: { [of("local_files_lost_total", "why=\"damaged\"")]: "7x10" },
    firesAt: "8m",
    labels: `${plain} why="damaged"`
  },
  {
    alert: "FileReplicationAuthRejected",
    bad: { [of("auth_rejections_total", "cause=\"clock\"")]: "0+5x30" },
    good: { [of("auth_rejections_total", "cause=\"clock\"")]: "0 1 1 2x30" },
    firesAt: "20m",
    labels: "instance=\"a\" cause=\"clock\""
  },
  {
    alert: "FileReplicationRejectedByPeers",
    bad: { [of("rejected_by_peer_total")]: "0+1x30" },
    good: { [of("rejected_by_peer_total")]: "9x30" },
    firesAt: "15m",
    labels: plain
  },
  {
    alert: "FileReplicationManifestUnreachable",
    bad: { [of("manifest_contact_seconds")]: "0+60x10" },
    good: { [of("manifest_contact_seconds")]: "5x10" },
    firesAt: "6m",
    labels: plain
  },
  {
    alert: "FileReplicationWatchStuck",
    bad: { [of("watch_gap_seconds")]: "0+60x20" },
    good: { [of("watch_gap_seconds")]: "0 60 0 60 0 60 0x20" },
    firesAt: "10m",
    labels: plain
  },
  {
    alert: "FileReplicationDiskFull",
    bad: { [of("disk_free_bytes")]: "9e9-1e9x8 1e9x20" },
    good: { [of("disk_free_bytes")]: "6e9x20" },
    firesAt: "15m",
    labels: plain
  },
  {
    alert: "FileReplicationBusy",
    bad: { [of("serves_total", "outcome=\"busy\"")]: "0+120x40" },
    good: { [of("serves_total", "outcome=\"busy\"")]: "0+6x40", [of("serves_total", "outcome=\"sent\"")]: "0+900x40" },
    firesAt: "25m",
    labels: "instance=\"a\""
  },
  {
    alert: "FileReplicationConnectionsRefused",
    bad: { [of("connections_refused_total")]: "0+60x40" },
    good: { [of("connections_refused_total")]: "5x40" },
    firesAt: "25m",
    labels: plain
  },
  {
    alert: "FileReplicationScrubOverdue",
    bad: {
      [of("scrub_interval_seconds")]: "600x120",
      [of("scrub_completed_timestamp_seconds")]: "0x120",
      [`process_start_time_seconds{${at}}`]: "0x120"
    },
    // By request only; that none has run for long is then no fault.
    good: {
      [of("scrub_interval_seconds")]: "0x120",
      [of("scrub_completed_timestamp_seconds")]: "0x120",
      [`process_start_time_seconds{${at}}`]: "0x120"
    },
    firesAt: "100m",
    labels: plain
  },
  {
    alert: "FileReplicationMemberGone",
    bad: { [of("members")]: "3x60", [of("members_alive")]: "2x60" },
    good: { [of("members")]: "3x60", [of("members_alive")]: "3x60" },
    firesAt: "40m",
    labels: plain
  },
  {
    alert: "FileReplicationOrphans",
    bad: { [of("orphan_files")]: "2x90" },
    good: { [of("orphan_files")]: "0x90" },
    firesAt: "70m",
    labels: plain
  },
  {
    alert: "FileReplicationThreadDied",
    bad: { [of("thread_deaths_total", "what=\"files\"")]: "0 0 0 1 1 1 1 1 1 1" },
    good: { [of("thread_deaths_total", "what=\"files\"")]: "7x10" },
    firesAt: "8m",
    labels: `${plain} what="files"`
  },
  {
    alert: "FileReplicationEventLoopBlocked",
    bad: {
      [of("event_loop_lag_seconds_bucket", "le=\"0.25\"")]: "0+10x40",
      [of("event_loop_lag_seconds_bucket", "le=\"0.5\"")]: "0+60x40",
      [of("event_loop_lag_seconds_bucket", "le=\"+Inf\"")]: "0+60x40"
    },
    good: {
      [of("event_loop_lag_seconds_bucket", "le=\"0.25\"")]: "0+60x40",
      [of("event_loop_lag_seconds_bucket", "le=\"0.5\"")]: "0+60x40",
      [of("event_loop_lag_seconds_bucket", "le=\"+Inf\"")]: "0+60x40"
    },
    firesAt: "25m",
    labels: plain
  }
]
