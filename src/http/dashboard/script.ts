/**
 * What runs in the page, in the JavaScript that every browser knows. Whatever the node says is shown as text, never as
 * markup: paths, names and reasons come from others.
 */
export const script = String.raw`
"use strict";
(function () {
  var every = 2000, patience = 5000, shown = 50;
  // Our clock less the node's, milliseconds; when it last answered, by our clock; bytes sent until then.
  var skew = 0, answered = null, sent = null;

  function byId(id) { return document.getElementById(id); }
  function put(node, text, kind) {
    node = typeof node === "string" ? byId(node) : node;
    if (node.textContent !== text) node.textContent = text;
    if (kind !== undefined) node.className = kind;
    return node;
  }
  function add(parent, tag, text, kind) {
    var node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    parent.appendChild(node);
    return node;
  }
  /** A number with a smaller line below it. */
  function figure(id, text, below, kind) {
    var node = byId(id);
    if (!node.firstChild) { node.appendChild(document.createElement("span")); add(node, "small"); }
    put(node.firstChild, text, kind || "");
    put(node.lastChild, below || "");
  }

  function count(n, what) { return whole(n) + " " + what + (n === 1 ? "" : "s"); }
  function whole(n) { return String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ","); }
  function bytes(n) {
    var units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], unit = 0;
    while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit++; }
    return (unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[unit];
  }
  function span(millis) {
    var s = Math.max(0, Math.round(millis / 1000));
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min " + (s % 60) + " s";
    if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
    return count(Math.floor(s / 86400), "day") + " " + Math.floor(s % 86400 / 3600) + " h";
  }
  function now() { return Date.now() - skew; }

  function showStatus(answer) {
    var status = answer.status, owed = status.owed, head = answer.head, cursor = status.cursor;
    put("node", answer.node);
    put("what", answer.role + " · version " + answer.version);
    document.title = (status.ready ? "" : "not ready: ") + answer.node + " · file-replication";
    var state = byId("state"), text = status.ready ? "Ready" : "Not ready";
    var why = status.ready ? ": every file of the manifest is here, verified." : ": " + status.reason;
    if (state.textContent !== text + why) {
      state.textContent = "";
      add(state, "b", text, status.ready ? "good" : "bad");
      state.appendChild(document.createTextNode(why));
    }
    figure("held", count(status.verified.files, "file"), bytes(status.verified.bytes));
    figure("owed", count(owed.files, "file"), bytes(owed.bytes), owed.files > 0 ? "warn" : "");
    figure("oldest", status.oldest_owed_ms === null ? "–" : span(now() - status.oldest_owed_ms),
      status.failed > 0 ? count(status.failed, "file") + " tried in vain" : "");
    figure("receiving", bytes(status.bytes_per_second) + "/s",
      answer.pulls.in_flight > 0 ? (status.eta_ms === null ? "no end in sight" : "done in " + span(status.eta_ms)) : "");
    figure("revision", cursor === null ? "–" : whole(cursor.revision), head === null
      ? "the manifest does not answer" : "of " + whole(Math.max(head.revision, cursor === null ? 0 : cursor.revision)),
      head === null ? "warn" : "");
    var paused = status.paused.length > 0;
    figure("flight", whole(answer.pulls.in_flight), paused ? "paused: " + status.paused.join(", ")
      : whole(answer.pulls.queued) + " waiting", paused ? "warn" : "");
    figure("free", answer.free_bytes === null ? "–" : bytes(answer.free_bytes));
  }

  function showSent(text) {
    var total = 0, at = Date.now();
    text.split("\n").forEach(function (line) {
      if (line.indexOf("file_replication_sent_bytes_total{") === 0) total += Number(line.slice(line.lastIndexOf(" ")));
    });
    var rate = sent !== null && at > sent.at ? Math.max(0, (total - sent.total) * 1000 / (at - sent.at)) : 0;
    sent = { at: at, total: total };
    figure("sending", bytes(rate) + "/s", bytes(total) + " since the start");
  }

  function showMembers(members, status) {
    var body = byId("members"), alive = 0, cursor = status.status.cursor, head = status.head || cursor;
    body.textContent = "";
    members.forEach(function (member) {
      var row = add(body, "tr"), mark = member.watermark;
      var state = member.draining ? "leaving" : member.alive ? "alive" : "no sign of life";
      if (member.alive) alive++;
      add(row, "th", member.id + (member.self ? " (this node)" : "")).scope = "row";
      add(row, "td", state, member.alive && !member.draining ? "" : "bad");
      var behind = "not known";
      if (member.self) mark = cursor === null ? null : { through: status.status.verified_through, at: cursor };
      if (mark !== null && head !== null) {
        behind = mark.at.epoch === head.epoch ? whole(Math.max(0, head.revision - mark.through)) : "another history";
      }
      add(row, "td", behind, behind === "0" || behind === "not known" ? "number" : "number warn");
      add(row, "td", member.role);
      add(row, "td", member.address === null ? "–" : member.address.host + ":" + member.address.port);
      add(row, "td", member.version === "" ? "–" : member.version);
    });
    put("members-count", alive + " of " + members.length + " alive; behind in revisions of the manifest");
  }

  function showOwed(owed) {
    var body = byId("debts"), open = {};
    // What the reader has opened stays open.
    Array.prototype.forEach.call(body.querySelectorAll("details[open]"), function (each) {
      open[each.getAttribute("data-path")] = true;
    });
    body.textContent = "";
    byId("debts-table").hidden = owed.files.length === 0;
    put("debts-count", owed.total === 0 ? "nothing" : owed.total > owed.files.length
      ? "the first " + owed.files.length + " of " + whole(owed.total) + " to be tried" : count(owed.total, "file"));
    owed.files.forEach(function (file) {
      var row = add(body, "tr"), wait = file.next_ms - now();
      add(row, "td", file.path, "text");
      // On a narrow page there is no head of the table.
      add(row, "td", bytes(file.size_bytes), "number");
      add(row, "td", span(now() - file.since_ms), "number").setAttribute("data-label", "owed for");
      add(row, "td", whole(file.rounds), "number").setAttribute("data-label", "tried");
      add(row, "td", wait <= 0 ? "now" : span(wait), "number").setAttribute("data-label", "again in");
      var why = add(row, "td", file.reason, "text why");
      if (file.answers.length === 0) return;
      var more = add(why, "details");
      more.setAttribute("data-path", file.path);
      more.open = open[file.path] === true;
      add(more, "summary", file.answers.length === 1 ? "what a peer said" : "what " + file.answers.length + " peers said");
      var list = add(more, "ul");
      file.answers.forEach(function (answer) {
        add(list, "li", answer.peer + ", " + span(now() - answer.at_ms) + " ago: " + answer.detail);
      });
    });
  }

  function get(url, then, failed) {
    var request = new XMLHttpRequest();
    request.open("GET", url);
    request.timeout = patience;
    request.onload = function () {
      if (request.status !== 200) return failed(url + " says " + request.status);
      var date = Date.parse(request.getResponseHeader("date") || "");
      then(request.responseText, date);
    };
    request.onerror = request.ontimeout = function () { failed("it can't be reached"); };
    request.send();
  }

  function all(urls, then, failed) {
    var texts = [], left = urls.length, over = false, date = NaN;
    urls.forEach(function (url, index) {
      get(url, function (text, at) {
        texts[index] = text;
        date = at;
        if (--left === 0 && !over) then(texts, date);
      }, function (why) {
        if (over) return;
        over = true;
        failed(why);
      });
    });
  }

  function show(texts, date) {
    // The header counts whole seconds.
    if (!isNaN(date) && Math.abs(Date.now() - date) > 2000) skew = Date.now() - date - 500;
    else skew = 0;
    var status = JSON.parse(texts[0]);
    showStatus(status);
    showMembers(JSON.parse(texts[1]).members, status);
    showOwed(JSON.parse(texts[2]));
    showSent(texts[3]);
    answered = Date.now();
    byId("stale").hidden = true;
    byId("data").hidden = false;
    document.body.className = "";
    put("asked", "Asked every " + every / 1000 + " seconds.");
  }

  function stale(why) {
    var node = byId("stale");
    put(node, "This node does not answer: " + why + ". " + (answered === null ? "Nothing is known of it."
      : "What is shown is from " + new Date(answered).toLocaleTimeString() + ", " + span(Date.now() - answered) + " ago."));
    node.hidden = false;
    document.title = "no answer · file-replication";
    document.body.className = "old";
    if (answered === null) put("state", "");
  }

  function poll() {
    var again = function () { setTimeout(poll, every); };
    if (document.hidden) return again();
    all(["/api/v1/cluster/status", "/api/v1/cluster", "/api/v1/cluster/owed?limit=" + shown, "/metrics"],
      function (texts, date) {
        try { show(texts, date); } catch (error) { stale("what it said can't be read (" + error.message + ")"); }
        again();
      },
      function (why) { stale(why); again(); });
  }
  poll();
})();
`
