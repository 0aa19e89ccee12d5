package octopiipb

import "slices"

// IsRemoved says whether a member was removed. Its ID is never used again.
func (m *Membership) IsRemoved(id uint64) bool {
	return slices.ContainsFunc(m.Removed, func(r RemovedMember) bool { return r.ID == id })
}

// RemovedIDs are the IDs of the members that were removed, in the order of that.
func (m *Membership) RemovedIDs() []uint64 {
	ids := make([]uint64, len(m.Removed))
	for i, r := range m.Removed {
		ids[i] = r.ID
	}
	return ids
}

// IncarnationOf returns the recorded incarnation of a member, or of one that was removed; 0: it
// is not known.
func (m *Membership) IncarnationOf(id uint64) uint64 {
	for i := range m.Members {
		if m.Members[i].ID == id {
			return m.Members[i].Incarnation
		}
	}
	for _, r := range m.Removed {
		if r.ID == id {
			return r.Incarnation
		}
	}
	return 0
}
