use super::*;
use crate::route::GroupMember;
use crate::tests::cluster::{begin, chunk, command as write_command};
use crate::types::{Membership, StoredMembership};
use crate::uploads::entry::timed;
use bytes::Bytes;
use corelith_wire::peer::{AppendResult, VoteAnswer};
use corelith_wire::request::{Condition, Operation, WriteRequest};

const ME: ReplicaId = ReplicaId(1);
const PEER: ReplicaId = ReplicaId(2);
const OURS: Term = Term(5);

/// Of a group whose third slot is unclaimed, as is committed at index 5.
fn known() -> Known<'static> {
    let me = GroupMember {
        replica: ME,
        store: StoreId(101),
    };
    let at = crate::types::log_id(id(2, 2, 5));
    let committed = StoredMembership::new(Some(at), membership_of([101, 102, 0]));
    Known {
        me: ME,
        peer: PEER,
        term: OURS,
        stores: Box::leak(Box::new(Stores::knowing(me, committed))),
    }
}

fn vote_of(term: u64, node: u64, committed: bool) -> PeerVote {
    PeerVote {
        term: Term(term),
        node: ReplicaId(node),
        committed,
    }
}

fn id(term: u64, node: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        node: ReplicaId(node),
        index: LogIndex(index),
    }
}

fn put() -> Bytes {
    let request = WriteRequest {
        session: 1,
        number: 2,
        answered_below: 1,
        condition: Condition::Any,
        operation: Operation::Put,
        key: b"k",
    };
    write_command(&request, &Bytes::from_static(b"v"))
}

fn entry(id: LogId, kind: u8, body: Bytes) -> PeerEntry {
    PeerEntry { id, kind, body }
}

fn puts(ids: &[LogId]) -> Vec<PeerEntry> {
    ids.iter()
        .map(|id| entry(*id, kind::WRITE, put()))
        .collect()
}

fn head(vote: PeerVote, before: Option<LogId>, committed: Option<LogId>) -> AppendHead {
    AppendHead {
        vote,
        before,
        committed,
        count: 0,
    }
}

/// Of nodes 1 to 3 with these stores.
fn membership_of(stores: [u128; 3]) -> Membership {
    let nodes: std::collections::BTreeMap<u64, StoreId> = (1..).zip(stores.map(StoreId)).collect();
    Membership::new(vec![nodes.keys().copied().collect()], nodes).unwrap()
}

fn stores_body(stores: [u128; 3]) -> Bytes {
    membership::encode(&membership_of(stores))
}

fn members_body(voters: &[u64]) -> Bytes {
    let voters = voters
        .iter()
        .copied()
        .collect::<std::collections::BTreeSet<_>>();
    membership::encode(&Membership::new_with_defaults(vec![voters.clone()], voters))
}

#[test]
fn votes_are_the_peers_own_and_terms_rise_in_steps() {
    let reach = OURS.0 + TERM_STEP_MAX;
    let refused_term = |term: u64| {
        Err(Refusal::Term {
            term: Term(term),
            ours: OURS,
        })
    };
    let refused_name = |claimed: u64| {
        Err(Refusal::NotTheSender {
            peer: PEER.node(),
            claimed: ReplicaId(claimed),
        })
    };
    let table = [
        (vote_of(5, 2, true), Ok(())),
        (vote_of(1, 2, true), Ok(())),
        (vote_of(reach, 2, true), Ok(())),
        (vote_of(reach + 1, 2, true), refused_term(reach + 1)),
        (vote_of(0, 2, true), refused_term(0)),
        (vote_of(u64::MAX, 2, true), refused_term(u64::MAX)),
        (vote_of(5, 2, false), Err(Refusal::WrongVote(PEER))),
        (vote_of(5, 3, true), refused_name(3)),
        (vote_of(5, 1, true), refused_name(1)),
        (vote_of(5, 0, true), refused_name(0)),
    ];
    for (vote, expected) in table {
        assert_eq!(
            append(&known(), &head(vote, None, None), &[]).map(drop),
            expected,
            "{vote:?}"
        );
        assert_eq!(snapshot_vote(&known(), &vote), expected, "{vote:?}");
    }
    let old = Known {
        term: Term(TERM_MAX - 1),
        ..known()
    };
    assert_eq!(snapshot_vote(&old, &vote_of(TERM_MAX, 2, true)), Ok(()));
    assert!(snapshot_vote(&old, &vote_of(TERM_MAX + 1, 2, true)).is_err());
    // It may be in a membership that is not here yet.
    let new = Known {
        peer: ReplicaId(4),
        ..known()
    };
    assert_eq!(snapshot_vote(&new, &vote_of(5, 4, true)), Ok(()));
    let mine = ReplicaId::new(ME.node(), 1);
    let earlier = Known {
        peer: mine,
        ..known()
    };
    let earlier = snapshot_vote(&earlier, &vote_of(5, mine.0, true));
    assert!(
        earlier.is_err(),
        "no other replica of this node says anything"
    );
}

fn a_begin() -> Bytes {
    begin(corelith_wire::UploadId(7), "key", 0)
}

fn a_chunk() -> Bytes {
    let id = corelith_wire::ChunkId {
        upload: corelith_wire::UploadId(7),
        part: 1,
        chunk: 2,
    };
    chunk(id, &Bytes::from_static(b"bytes"))
}

#[test]
fn entries_follow_each_other_and_make_sense() {
    let vote = vote_of(5, 2, true);
    let check = |before, entries: &[PeerEntry]| {
        append(&known(), &head(vote, before, None), entries).map(drop)
    };
    let before = Some(id(4, 3, 9));
    assert_eq!(check(before, &puts(&[id(4, 3, 10), id(5, 2, 11)])), Ok(()));
    let wrong = [
        (before, id(4, 3, 11)),
        (before, id(4, 3, 9)),
        (before, id(4, 2, 10)),
        (before, id(3, 3, 10)),
        (before, id(5, 3, 10)),
        (before, id(6, 2, 10)),
        (None, id(5, 2, 1)),
    ];
    for (before, first) in wrong {
        assert_eq!(check(before, &puts(&[first])), Err(Refusal::Order(first)));
    }
    assert_eq!(check(before, &puts(&[id(4, 3, 10), id(4, 7, 11)])), Ok(()));
    let nobody = 3 << 48;
    let nobodys = check(before, &puts(&[id(4, 3, 10), id(4, nobody, 11)]));
    assert_eq!(nobodys, Err(Refusal::NoReplica(ReplicaId(nobody))));
    let first = entry(id(0, 0, 0), kind::MEMBERSHIP, members_body(&[1, 2, 3]));
    assert_eq!(check(None, &[first]), Ok(()), "nobody led when it was made");
    let far = id(5, 2, INDEX_MAX + 1);
    assert_eq!(check(Some(far), &[]), Err(Refusal::Index(far.index)));
    let newest = id(5, 2, u64::MAX - 1);
    assert_eq!(
        check(Some(newest), &puts(&[id(5, 2, 0)])),
        Err(Refusal::Index(newest.index))
    );
    let committed = head(vote, before, Some(id(5, 3, 2)));
    assert_eq!(
        append(&known(), &committed, &[]).map(drop),
        Err(Refusal::Order(id(5, 3, 2)))
    );

    let at = id(5, 2, 10);
    let bodies = [
        (kind::BLANK, Bytes::new(), Ok(())),
        (kind::BLANK, put(), Err(Refusal::Entry(at))),
        (kind::WRITE, put(), Ok(())),
        (kind::WRITE, put().slice(1..), Err(Refusal::Entry(at))),
        (kind::WRITE, Bytes::new(), Err(Refusal::Entry(at))),
        (kind::OPEN_SESSION, Bytes::from_static(&[7; 8]), Ok(())),
        (kind::OPEN_SESSION, put(), Err(Refusal::Entry(at))),
        (kind::MEMBERSHIP, stores_body([101, 102, 0]), Ok(())),
        (kind::MEMBERSHIP, stores_body([101, 102, 103]), Ok(())),
        (
            kind::MEMBERSHIP,
            members_body(&[1, 2, 3]),
            Err(Refusal::Membership(at)),
        ),
        (
            kind::MEMBERSHIP,
            stores_body([101, 104, 0]),
            Err(Refusal::Membership(at)),
        ),
        (
            kind::MEMBERSHIP,
            stores_body([101, u128::MAX, 0]),
            Err(Refusal::Membership(at)),
        ),
        (
            kind::MEMBERSHIP,
            members_body(&[1, 2]),
            Err(Refusal::Membership(at)),
        ),
        (kind::MEMBERSHIP, Bytes::new(), Err(Refusal::Membership(at))),
        (10, Bytes::new(), Err(Refusal::Kind { at, kind: 10 })),
        (kind::UPLOAD_CHUNK, a_chunk(), Ok(())),
        (
            kind::UPLOAD_CHUNK,
            a_chunk().slice(..36),
            Err(Refusal::Entry(at)),
        ),
        (kind::UPLOAD_CHUNK, Bytes::new(), Err(Refusal::Entry(at))),
        (kind::UPLOAD_BEGIN, timed(9, &a_begin()), Ok(())),
        (kind::UPLOAD_BEGIN, a_begin(), Err(Refusal::Entry(at))),
        (
            kind::UPLOAD_COMMIT,
            timed(9, &a_begin()),
            Err(Refusal::Entry(at)),
        ),
        (kind::UPLOAD_ABORT, timed(9, &[7; 16]), Ok(())),
        (
            kind::UPLOAD_ABORT,
            timed(9, &[7; 17]),
            Err(Refusal::Entry(at)),
        ),
        (kind::UPLOAD_EXPIRE, timed(9, &[]), Ok(())),
        (kind::UPLOAD_EXPIRE, Bytes::new(), Err(Refusal::Entry(at))),
        (kind::UPLOAD_DROP, timed(9, &[1; 17]), Ok(())),
        (
            kind::UPLOAD_DROP,
            timed(9, &[2; 17]),
            Err(Refusal::Entry(at)),
        ),
    ];
    for (kind, body, expected) in bodies {
        let entries = [entry(at, kind, body.clone())];
        assert_eq!(check(before, &entries), expected, "kind {kind}: {body:?}");
    }
}

/// A log of entries (1, 1) up to 9, (3, 3) up to 14; purged up to 4.
fn id_at(index: LogIndex) -> Option<LogId> {
    match index.0 {
        5..10 => Some(id(1, 1, index.0)),
        10..15 => Some(id(3, 3, index.0)),
        _ => None,
    }
}

fn held(settled: u64) -> HeldLog<'static> {
    HeldLog {
        purged: Some(id(1, 1, 4)),
        settled: Some(LogIndex(settled)),
        id_at: &id_at,
    }
}

#[test]
fn what_is_settled_is_not_contradicted() {
    let ours = vote_of(5, 2, true);
    let check = |before, ids: &[LogId], committed| {
        place(&ours, &head(ours, before, committed), &puts(ids), &held(12))
    };
    let contradicts = |id| Err(Refusal::Contradicts(id));
    let committed_of = |place: Result<AppendPlace, Refusal>| place.map(|place| place.committed);
    // The log as it is, with what is known to be committed cut to what was shown.
    let last = id(3, 3, 14);
    assert_eq!(
        committed_of(check(Some(last), &[], Some(last))),
        Ok(Some(last))
    );
    assert_eq!(
        committed_of(check(Some(last), &[], Some(id(5, 2, 90)))),
        Ok(Some(last))
    );
    assert_eq!(
        committed_of(check(Some(last), &[id(5, 2, 15)], Some(id(5, 2, 15)))),
        Ok(Some(id(5, 2, 15)))
    );
    assert_eq!(committed_of(check(None, &[], Some(last))), Ok(None));
    // Entries that are not settled may be replaced, others not.
    assert!(check(Some(id(3, 3, 12)), &[id(5, 2, 13)], None).is_ok());
    assert_eq!(
        check(Some(id(3, 3, 11)), &[id(5, 2, 12)], None),
        contradicts(id(5, 2, 12))
    );
    assert_eq!(
        check(Some(id(3, 2, 12)), &[], None),
        contradicts(id(3, 2, 12))
    );
    assert_eq!(
        check(Some(id(2, 2, 3)), &[], None),
        contradicts(id(2, 2, 3))
    );
    assert_eq!(
        check(Some(id(1, 2, 4)), &[], None),
        contradicts(id(1, 2, 4))
    );
    assert!(check(Some(id(0, 1, 3)), &[], None).is_ok());
    // A commit index that is in neither log.
    assert_eq!(
        check(Some(last), &[], Some(id(3, 1, 13))),
        contradicts(id(3, 1, 13))
    );
    assert_eq!(
        check(Some(last), &[], Some(id(1, 1, 11))),
        contradicts(id(1, 1, 11))
    );
    assert_eq!(
        check(Some(last), &[id(5, 2, 15)], Some(id(5, 1, 15))),
        contradicts(id(5, 1, 15))
    );
    assert_eq!(
        check(Some(last), &[], Some(id(2, 3, 20))),
        Err(Refusal::Order(id(2, 3, 20)))
    );
    // What openraft will answer with a conflict or a higher vote commits nothing.
    let nothing = Ok(AppendPlace {
        committed: None,
        line: None,
    });
    assert_eq!(check(Some(id(5, 2, 20)), &[], Some(id(5, 2, 20))), nothing);
    assert_eq!(check(Some(id(4, 2, 13)), &[], Some(id(3, 3, 12))), nothing);
    let stale = head(vote_of(4, 2, true), Some(last), Some(last));
    assert_eq!(place(&ours, &stale, &[], &held(12)), nothing);
    let replaced = head(vote_of(1, 1, true), Some(id(1, 1, 9)), None);
    let replaced = place(&ours, &replaced, &puts(&[id(1, 1, 10)]), &held(12));
    assert_eq!(
        replaced, nothing,
        "what a leader of old did not get committed"
    );
}

#[test]
fn what_goes_on_where_the_leader_stopped_needs_no_second_look() {
    let vote = vote_of(5, 2, true);
    let first = head(vote, Some(id(3, 3, 14)), None);
    let line = place(&vote, &first, &puts(&[id(5, 2, 15)]), &held(12)).unwrap();
    let line = line.line.unwrap();
    let tail = id(5, 2, 15);
    let check = |before, ids: &[LogId], committed| {
        let place = in_line(&line, &head(vote, before, committed), &puts(ids), &held(0));
        place.map(|place| place.committed)
    };
    assert_eq!(
        check(Some(tail), &[id(5, 2, 16)], Some(tail)),
        Some(Some(tail))
    );
    assert_eq!(check(Some(tail), &[], Some(id(5, 2, 99))), Some(Some(tail)));
    assert_eq!(
        check(Some(id(3, 3, 12)), &[], Some(id(3, 3, 12))),
        Some(Some(id(3, 3, 12)))
    );
    assert_eq!(check(None, &[], None), Some(None));
    for (why, before, ids, committed) in [
        ("another entry before", Some(id(5, 2, 14)), &[][..], None),
        ("a gap", Some(id(5, 2, 16)), &[id(5, 2, 17)][..], None),
        ("entries sent again", Some(id(3, 3, 14)), &[tail][..], None),
        ("no such commit", Some(tail), &[][..], Some(id(4, 2, 14))),
    ] {
        assert_eq!(check(before, ids, committed), None, "{why}");
    }
    let other = head(vote_of(6, 2, true), Some(tail), None);
    assert_eq!(
        in_line(&line, &other, &[], &held(0)),
        None,
        "another leader"
    );
    // A leader that has shown less than is held here.
    let first = head(vote, Some(id(1, 1, 9)), None);
    let line = place(&vote, &first, &[], &held(12)).unwrap().line.unwrap();
    let check = |ids: &[LogId]| {
        in_line(
            &line,
            &head(vote, Some(id(1, 1, 9)), None),
            &puts(ids),
            &held(0),
        )
        .is_some()
    };
    assert!(check(&[id(3, 3, 10)]));
    assert!(
        !check(&[id(3, 3, 10), id(5, 2, 11)]),
        "may replace what is committed"
    );
}

#[test]
fn a_refused_append_takes_back_what_it_would_have_shown() {
    let line = |tail: Option<u64>| LeaderLine {
        vote: vote_of(5, 2, true),
        tail: tail.map(|index| id(5, 2, index)),
        own_from: Some(LogIndex(3)),
    };
    // The line before the refused append, by now, and after its answer.
    for (before, now, after) in [
        (Some(10), Some(12), Some(10)),
        // An earlier one was refused too, or the leader went back.
        (Some(12), Some(10), Some(10)),
        (Some(10), Some(10), Some(10)),
        (None, Some(10), None),
    ] {
        assert_eq!(
            line(before).without(line(now)),
            line(after),
            "{before:?} {now:?}"
        );
    }
}

#[test]
fn a_leader_of_old_ends_no_line_of_a_newer_one() {
    let line_of = |term| LeaderLine {
        vote: vote_of(term, 2, true),
        tail: Some(id(1, 1, 9)),
        own_from: None,
    };
    let nothing = AppendPlace {
        committed: None,
        line: None,
    };
    let after = |place: &AppendPlace, term| {
        let head = head(vote_of(term, 2, true), None, None);
        place.line_after(Some(line_of(4)), &head)
    };
    assert_eq!(after(&nothing, 3), Some(line_of(4)), "of a leader of old");
    assert_eq!(after(&nothing, 4), Some(line_of(4)), "of the same");
    assert_eq!(after(&nothing, 5), None, "of a newer one");
    let placed = AppendPlace {
        line: Some(line_of(5)),
        ..nothing
    };
    assert_eq!(after(&placed, 5), Some(line_of(5)));
}

#[test]
fn votes_and_hand_overs_are_checked() {
    let ask = |vote, last, transfer| VoteAsk {
        vote,
        last,
        handed_over_by: bool::then_some(transfer, (Term(5), ReplicaId(1))),
    };
    let candidate = vote_of(6, 2, false);
    let good = ask(candidate, Some(id(5, 3, 9)), false);
    assert_eq!(vote(&known(), false, &good), Ok(()));
    assert_eq!(vote(&known(), true, &good), Ok(()));
    assert!(vote(&known(), false, &ask(candidate, None, true)).is_ok());
    for (pre, wrong) in [
        (true, ask(candidate, None, true)),
        (false, ask(vote_of(6, 2, true), None, false)),
        (false, ask(candidate, Some(id(6, 1, 9)), false)),
        (false, ask(candidate, Some(id(7, 1, 9)), false)),
        (false, ask(candidate, Some(id(5, 1, INDEX_MAX + 1)), false)),
    ] {
        assert!(vote(&known(), pre, &wrong).is_err(), "{wrong:?}");
    }
    let hand_over = |to, last| Transfer {
        from: vote_of(5, 2, true),
        to: ReplicaId(to),
        last,
    };
    assert_eq!(transfer(&known(), &hand_over(1, Some(id(5, 2, 7)))), Ok(()));
    for (to, last) in [(2, None), (0, None), (5, None), (1, Some(id(5, 3, 7)))] {
        assert!(transfer(&known(), &hand_over(to, last)).is_err());
    }
}

#[test]
fn snapshots_are_whole_and_fit_what_is_committed() {
    let vote = vote_of(5, 2, true);
    let members = (id(0, 0, 0), members_body(&[1, 2, 3]));
    let check = |applied, members: Option<&(LogId, Bytes)>| {
        snapshot(&known(), &vote, applied, members, Some(id(3, 3, 12)))
    };
    for good in [id(3, 3, 12), id(5, 2, 20), id(1, 1, 2)] {
        assert_eq!(check(Some(good), Some(&members)), Ok(()), "{good}");
    }
    for wrong in [
        id(5, 2, 12),
        id(4, 1, 3),
        id(1, 1, 13),
        id(5, 3, 20),
        id(5, 2, INDEX_MAX + 1),
    ] {
        assert!(check(Some(wrong), Some(&members)).is_err(), "{wrong}");
    }
    let applied = Some(id(5, 2, 20));
    assert_eq!(check(None, Some(&members)), Err(Refusal::Snapshot));
    assert_eq!(check(applied, None), Err(Refusal::Snapshot));
    let later = (id(5, 2, 21), members_body(&[1, 2, 3]));
    assert_eq!(check(applied, Some(&later)), Err(Refusal::Order(later.0)));
    let others = (id(0, 0, 0), stores_body([104, 102, 0]));
    assert_eq!(
        check(applied, Some(&others)),
        Err(Refusal::Membership(others.0))
    );
}

#[test]
fn answers_fit_what_was_asked() {
    let ours = vote_of(5, 1, true);
    let sent = Sent {
        vote: ours,
        before: Some(id(5, 1, 8)),
        last: Some(id(5, 1, 9)),
    };
    let check = |result| append_answer(&known(), &sent, Some(id(5, 1, 7)), &result);
    let taken = |matching| AppendResult::Taken { matching };
    let conflict = |at| AppendResult::Conflict { at };
    let higher = |vote| AppendResult::HigherVote { vote };
    for good in [
        taken(sent.last),
        conflict(id(5, 1, 8)),
        higher(vote_of(6, 3, false)),
        higher(vote_of(5, 2, true)),
        // In no membership that is known here, and of a node that was met.
        higher(vote_of(6, 4, true)),
        AppendResult::Unable,
    ] {
        assert_eq!(check(good), Ok(()), "{good:?}");
    }
    for wrong in [
        taken(None),
        taken(sent.before),
        taken(Some(id(5, 1, 10))),
        taken(Some(id(4, 1, 9))),
        conflict(id(5, 1, 9)),
        conflict(id(4, 1, 8)),
        higher(ours),
        higher(vote_of(4, 3, true)),
        higher(vote_of(6, 5, true)),
        higher(vote_of(u64::MAX, 3, true)),
    ] {
        assert!(check(wrong).is_err(), "{wrong:?}");
    }
    let lost = append_answer(&known(), &sent, sent.before, &conflict(id(5, 1, 8)));
    assert_eq!(lost, Err(Refusal::Lost(id(5, 1, 8))));
    // A heartbeat without an entry before it cannot conflict with anything.
    let beat = Sent {
        before: None,
        last: None,
        ..sent
    };
    let answer = append_answer(&known(), &beat, None, &conflict(id(5, 1, 8)));
    assert_eq!(answer, Err(Refusal::Answer));

    let asked = vote_of(6, 1, false);
    let answer = |vote, last, granted| VoteAnswer {
        vote,
        last,
        granted,
        promised_ms: 0,
    };
    let check = |pre, answer| vote_answer(&known(), pre, &asked, &answer);
    assert_eq!(check(false, answer(asked, None, true)), Ok(()));
    assert_eq!(check(true, answer(vote_of(5, 3, true), None, true)), Ok(()));
    assert_eq!(
        check(true, answer(vote_of(0, 2, false), None, true)),
        Ok(())
    );
    // One that is gone for good, and that the others know.
    assert_eq!(check(true, answer(vote_of(5, 5, true), None, true)), Ok(()));
    assert_eq!(
        check(false, answer(vote_of(7, 3, true), Some(id(6, 2, 3)), false)),
        Ok(())
    );
    for wrong in [
        answer(vote_of(5, 3, true), None, true),
        answer(vote_of(7, 5, false), None, false),
        answer(vote_of(u64::MAX, 3, false), None, false),
        answer(vote_of(5, 3, true), Some(id(6, 3, 3)), false),
        answer(vote_of(5, 3, true), Some(id(5, 3, INDEX_MAX + 1)), false),
    ] {
        assert!(check(false, wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(snapshot_answer(&known(), &ours, &ours), Ok(()));
    assert!(snapshot_answer(&known(), &ours, &vote_of(4, 3, true)).is_err());
}

#[test]
fn a_lead_that_one_was_never_given_is_not_taken() {
    let ours = vote_of(5, 1, true);
    let claimed = known().as_heard(vote_of(9, 1, true), &ours);
    assert_eq!(
        claimed,
        vote_of(9, 2, false),
        "the term counts, as the peer's own"
    );
    let others = vote_of(9, 3, true);
    assert_eq!(known().as_heard(others, &ours), others);
    assert_eq!(known().as_heard(ours, &ours), ours);
}
