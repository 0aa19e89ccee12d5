package node

import "slices"

// Member is one member of a cluster.
type Member struct {
	// ID is never 0 and never used again after Remove. In AddLearner and
	// AddVoter 0 means: the ID that whoever listens at Address says it has.
	ID   uint64
	Name string
	// Address is where the member listens for its peers.
	Address string
	// Learner: it receives the log and does not vote.
	Learner bool
	// Priority ranks the candidates for leadership: a voter of a higher one that is
	// alive and close behind is handed leadership.
	Priority int
}

// Membership is who belongs to a cluster, as of one log entry.
type Membership struct {
	// Index is the log entry that last changed it.
	Index uint64
	// Members are ordered by ID.
	Members []Member
	// Joint: a change of several members is half done, and takes effect when a
	// majority of those before it and of those after it have agreed.
	Joint bool
	// FailoverByTimeout: see Config.
	FailoverByTimeout bool
	// FormatLevel is up to which level members write entries and snapshots. The leader raises
	// it when all members run a program that reads the next one; see Status.LevelHeldBy.
	FormatLevel uint32
}

// Quorum is how many voters must agree.
func (m Membership) Quorum() int { return len(m.Voters())/2 + 1 }

// Member returns the member with that ID.
func (m Membership) Member(id uint64) (Member, bool) {
	i := slices.IndexFunc(m.Members, func(o Member) bool { return o.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return m.Members[i], true
}

// Voters returns the IDs of the members that vote, in order.
func (m Membership) Voters() []uint64 {
	var ids []uint64
	for _, o := range m.Members {
		if !o.Learner {
			ids = append(ids, o.ID)
		}
	}
	return ids
}
