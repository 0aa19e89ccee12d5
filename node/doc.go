// Package node embeds a Raft member into a program: give it a state machine,
// get a replicated one.
//
// Four nouns teach it. A [Node] is one member of a cluster. It replicates a
// [StateMachine], which is yours: the same entries, in the same order, on every
// member. A [transport.Transport] carries what members say to each other;
// transport/tcp is the real one. A [Membership] is who belongs: it changes by
// verbs on any member, and no list of members is ever written into a
// configuration.
//
// One member founds a cluster, with Config.Bootstrap. Every other starts with
// an empty directory and joins, by Config.Join or because a member was told to
// add it, and the leader brings it to life with a snapshot. At every later start
// the same configuration does: the directory knows better.
//
// See the Example for a program that runs.
package node
