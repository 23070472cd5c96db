//! Plans as text tables.

mod simulation;
mod text;

use text::check;

#[test]
fn a_change_goes_step_by_step() {
    check(
        "
# a drained node's replica: a change begins
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 lead=2
----
begin s0 +4 -1 drain

# the target opens it
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2
----
ask 4: open s0 4.1

# the leader takes it as a learner
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2 holds=4.1
----
ask 2: learner s0 4.1

# it is waited for while it lags
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2 holds=4.1 learners=4.1 last=5000 match=4.1:3999
----

# and votes once it does not
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2 holds=4.1 learners=4.1 last=5000 match=4.1:4000
----
ask 2: voters s0 2 3 4.1

# the leader that goes hands on first
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=1 holds=4.1 learners=4.1 last=5000 match=4.1:5000
----
ask 1: lead s0 2

# but for one that has nobody to hand on to
plan replicas=1
nodes: 1/drain 2
s0: 1 +2.1 -1 lead=1 holds=2.1 learners=2.1 last=9 match=2.1:9
----
ask 1: voters s0 2.1

# a joint membership is finished
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2 holds=4.1 voters=1,2,3|2,3,4.1
----
ask 2: voters s0 2 3 4.1

# the end is not shown before it is committed
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2 holds=4.1 voters=2,3,4.1 at=9 uncommitted
----

# the new one takes the place of the old one in the order
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2 holds=4.1 voters=2,3,4.1 at=9
----
end s0: 4.1 2 3 at 9

# a report that is older than the map is waited out
plan
nodes: 1 2 3 4
s0: 1 2 3 lead=2 voters=2,3,4.1 at=9 membership=10
----
",
    );
}

#[test]
fn replicas_on_nodes_that_were_removed_with_them_leave_the_group() {
    check(
        "
# the map has the replicas that are left, and the group still the one that is gone
plan
nodes: 1 2 3/removed/dead 4
s0: 1 2 lead=2 voters=1,2,3 at=9
----
ask 2: voters s0 1 2

# they leave once what was before is committed
plan
nodes: 1 2 3/removed/dead 4
s0: 1 2 lead=2 voters=1,2,3 at=9 uncommitted
----

# from then on the shard is short of one
plan
nodes: 1 2 3/removed/dead 4
s0: 1 2 lead=2 voters=1,2 at=11
----
begin s0 +4 operator

# a group that went on without a majority is shown
plan
nodes: 1 2 3
s0: 1 2 3 lead=1 voters=1 at=11 membership=9
----
end s0: 1 at 11
",
    );
}

#[test]
fn a_change_is_undone_or_finished() {
    check(
        "
# the target died
plan
nodes: 1/drain 2 3 4/gone
s0: 1 2 3 +4.1 -1 lead=2 learners=4.1
----
ask 2: unlearn s0 4.1

# the learner is removed, and the map says so
plan
nodes: 1/drain 2 3 4/gone
s0: 1 2 3 +4.1 -1 lead=2 at=7
----
undo s0 at 7

# the target died while the membership is joint: it is finished
plan
nodes: 1/drain 2 3 4/gone
s0: 1 2 3 +4.1 -1 lead=2 voters=1,2,3|2,3,4.1
----
ask 2: voters s0 2 3 4.1

# a target that is silent for a moment is waited for
plan
nodes: 1/drain 2 3 4/silent
s0: 1 2 3 +4.1 -1 lead=2 learners=4.1
----

# it gets on no more
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 lead=2 holds=4.1 learners=4.1 last=5000 match=4.1:7 stalled
----
ask 2: unlearn s0 4.1

# its disk was wiped meanwhile
plan
nodes: 1/drain 2 3 4/new
s0: 1 2 3 +4.1 -1 lead=2 learners=4.1
----
ask 2: unlearn s0 4.1

# a learner without a change is removed
plan
nodes: 1 2 3 4
s0: 1 2 3 lead=2 learners=4.1
----
ask 2: unlearn s0 4.1

# a joint membership without a change is finished, and shown
plan
nodes: 1 2 3 4
s0: 1 2 3 lead=2 voters=1,2,3|2,3,4.1 gen=2
----
ask 2: voters s0 2 3 4.1

plan
nodes: 1 2 3 4
s0: 1 2 3 lead=2 voters=2,3,4.1 at=9 gen=2
----
end s0: 2 3 4.1 at 9

# what no map can show is left alone
plan
nodes: 1 2 3
s0: 1 2 3 lead=2 voters=2,3,9.1 at=9 gen=2
----

# a replica that no membership names any more is dropped once the map says so
plan
nodes: 1 2 3 4
s0: 1 2 3 lead=2 at=9 holds=4.1 gen=2
----
end s0: 1 2 3 at 9

# nobody leads: nothing can be asked
plan
nodes: 1/drain 2 3 4
s0: 1 2 3 +4.1 -1 none
----

# the voters would be no majority that lives
plan
nodes: 1/drain 2/silent 3 4
s0: 1 2 3 +4.1 -1 lead=3 holds=4.1 learners=4.1 last=9 match=4.1:9
----
ask 3: voters s0 2 3 4.1

plan
nodes: 1 2/silent 3
s0: 1 2 3 -1 lead=3
----
",
    );
}

#[test]
fn what_is_lost_is_made_good() {
    check(
        "
# a node that is silent is waited for
plan
nodes: 1/gone 2 3 4
s0: 1 2 3 lead=2
----

# one that is lost is replaced elsewhere
plan
nodes: 1/dead 2 3 4
s0: 1 2 3 lead=2
----
begin s0 +4 -1 rebuild

# if there is one
plan
nodes: 1/dead 2 3
s0: 1 2 3 lead=2
----

# one that is damaged or not there is made anew where it is
plan
nodes: 1 2 3 4
s0: 1 2 3 lead=2 down=1
s1: 1 2 3 lead=2 lost=3
----
begin s0 +1 -1 rebuild
begin s1 +3 -3 rebuild

# but not if no majority would be left
plan
nodes: 1 2 3/silent 4
s0: 1 2 3 lead=2 down=1
----

# the one with the fewest live voters comes first
plan moves=1 replicas=5
nodes: 1 2 3 4 5
s0: 1 2 3 4 5 lead=2 down=1
s1: 1 2 3 4 5 lead=2 down=1 lost=3
----
begin s1 +1 -1 rebuild

# what can be done for a shard is done, where another of its needs cannot be met
plan replicas=5
nodes: 1 2 3 4 5/dead
s0: 1 2 3 4 5 lead=2 down=1
----
begin s0 +1 -1 rebuild

# a wiped node is taken in, and then gets its replicas anew
plan
nodes: 1/new 2 3
s0: 1 2 3 lead=2
----
store 1 = 1001

plan
nodes: 1 2 3
s0: 1 2 3 lead=2 lost=1
----
begin s0 +1 -1 rebuild

# unless an operator is to say so
plan manual
nodes: 1/new 2 3
s0: 1 2 3 lead=2
----

# the shard of the map is one of them
plan
nodes: 1/dead 2 3 4
meta: 1 2 3 lead=2
----
begin meta +4 -1 rebuild
",
    );
}

#[test]
fn numbers_and_zones_are_kept() {
    check(
        "
# more replicas, one at a time
plan replicas=5
nodes: 1 2 3 4 5
s0: 1 2 3 lead=2
----
begin s0 +4 operator

# fewer: the one of the fullest zone goes
plan replicas=3
nodes: 1/z=a 2/z=b 3/z=c 4/z=a
s0: 1 2 3 4 lead=2
----
begin s0 -4 operator

# or the one that is drained
plan replicas=3
nodes: 1/z=a 2/z=b/drain 3/z=c 4/z=a
s0: 1 2 3 4 lead=3
----
begin s0 -2 operator

# two in a zone, and none in another
plan
nodes: 1/z=a 2/z=a 3/z=b 4/z=c
s0: 1 2 3 lead=2
----
begin s0 +4 -2 move

# zones of one name in different regions differ
plan
nodes: 1/z=a 2/z=a/r=x 3/z=b 4/z=c
s0: 1 2 3 lead=2
----

# a lost zone leaves two in one
plan
nodes: 1/z=a 2/z=b 3/z=c/dead 4/z=a 5/z=b 6/z=c/dead
s0: 1 2 3 lead=2
----
begin s0 +4 -3 rebuild

# the shard of the map is on an odd number of nodes
plan
nodes: 1 2 3 4
meta: 1 2 3 lead=1
----

plan
nodes: 1 2 3 4 5
meta: 1 2 3 lead=1
----
begin meta +4 operator

# a full disk gets nothing
plan
nodes: 1/drain 2 3 4/full 5
s0: 1 2 3 lead=2
----
begin s0 +5 -1 drain

# nor does a node that is given up for a while, or one that is busy
plan per_node=1
nodes: 1/drain 2 3 4
s0: 1 2 3 lead=2
s1: 1 2 3 lead=2
----
begin s0 +4 -1 drain
prefer s1 2
",
    );
}

#[test]
fn loads_and_leads_are_evened_out() {
    check(
        "
# a new node gets replicas of the fullest
plan balance
nodes: 1 2 3 4
s0: 1 2 3 lead=1
s1: 2 3 1 lead=2
s2: 3 1 2 lead=3
s3: 1 2 3 lead=1
----
begin s0 +4 -3 move
begin s1 +4 -2 move
prefer s3 2

# where they are alike nothing moves
plan balance
nodes: 1 2 3 4
s0: 1 2 3 lead=1
s1: 2 3 4 lead=2
s2: 3 4 1 lead=3
s3: 4 1 2 lead=4
----

# nor while a voter is away
plan balance
nodes: 1 2 3/silent 4
s0: 1 2 3 lead=1
s1: 2 1 3 lead=2
----

# by bytes, not by number
plan balance replicas=1
nodes: 1 2
s0: 1 lead=1 MiB=900
s1: 2 lead=2 MiB=300
s2: 2 lead=2 MiB=300
s3: 2 lead=2 MiB=300
----

# leads leave a node that is drained, even where replicas cannot
plan replicas=3
nodes: 1/drain 2 3
s0: 1 2 3 lead=1
----
begin s0 -1 operator
",
    );
}
