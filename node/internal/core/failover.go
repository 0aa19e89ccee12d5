package core

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// campaignsMax is how often a member campaigns for a leader that is dead before it
// leaves that to the election timeout. More than once, as another member may not
// have heard of it yet and refuse its pre-vote, or votes may be split.
const campaignsMax = 3

// stepGone forgets the leader if it is among those whose process is dead, as far as
// anybody can tell, and wants to campaign soon: there is nobody to wait for. It is
// called behind all messages, which the leader may have sent before it died.
//
// Nothing is risked by a mistake. Who still hears the leader has not forgotten it and
// refuses the pre-vote, and this member follows again at the next heartbeat.
func (c *leading) stepGone(gone []uint64) {
	if len(gone) == 0 || !c.mayForget() {
		return
	}
	st := c.rn.BasicStatus()
	if st.RaftState != raft.StateFollower || st.Lead == raft.None || !slices.Contains(gone, st.Lead) {
		return
	}
	if !slices.Contains(c.handed.ConfState.Voters, c.cfg.ID) {
		return // whoever may not campaign gains nothing
	}
	_ = c.rn.ForgetLeader() // it cannot fail: see raft.MsgForgetLeader
	c.campaigns, c.yielded = 0, false
	c.campaignSoon()
}

// mayForget says whether the cluster wants it. It is the setting of a cluster that reads
// under leases: what refuses connections may be a firewall in front of a leader that
// lives, and its lease counts on the memory of its followers.
func (c *leading) mayForget() bool { return !c.handed.Membership.Settings.FailoverByTimeout }

// campaignSoon asks the shell for Input.Campaign.
func (c *leading) campaignSoon() {
	c.campaigns++
	c.effects.CampaignSoon = c.campaigns
}

// stepCampaign campaigns if there is still no leader. raft asks for pre-votes, and
// does nothing while a change of membership waits to be applied. Whoever has just given
// its vote, or a pre-vote, waits once more instead: the one that has it may be as good
// as elected, and would be deposed by the higher term. A candidate that is one still has
// seen votes split, unless its own waits for the disk.
func (c *leading) stepCampaign() {
	st := c.rn.BasicStatus()
	if c.campaigns == 0 || st.Lead != raft.None || !slices.Contains(c.handed.ConfState.Voters, c.cfg.ID) {
		return
	}
	candidate := st.RaftState == raft.StateCandidate
	if !candidate && !c.yielded || candidate && c.outstanding.none() {
		_ = c.rn.Campaign()
	}
	c.yielded = false
	if c.campaigns == campaignsMax {
		c.campaigns = 0
		return
	}
	c.campaignSoon()
}

// noteVotes looks for a vote or a pre-vote for another one.
func (c *leading) noteVotes(responses []raftpb.Message) {
	if c.campaigns == 0 {
		return
	}
	for i := range responses {
		m := &responses[i]
		if (m.Type == raftpb.MsgVoteResp || m.Type == raftpb.MsgPreVoteResp) && !m.Reject && m.To != c.cfg.ID {
			c.yielded = true
		}
	}
}
