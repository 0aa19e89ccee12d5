package octopiipb

// Level is the format level of a cluster with these settings. One that does not say it has 1.
func (s Settings) Level() uint32 { return max(1, s.Format) }
