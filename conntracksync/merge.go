package conntracksync

// merge lays a newer report of a flow over an older one, in place. Reports leave
// out what has not changed.
func merge(older *Record, newer *Event) {
	if newer.Kind == EventNew {
		older.Kind = RecordNew
		older.Flow = newer.Flow
		return
	}
	hadTCP, tcp, extra := older.Flow.HasTCP, older.Flow.TCP, older.Flow.Extra
	older.Flow = newer.Flow
	if !newer.Flow.HasTCP {
		older.Flow.HasTCP, older.Flow.TCP = hadTCP, tcp
	}
	older.Flow.Extra = mergeExtra(extra, newer.Flow.Extra)
}

func mergeExtra(older, newer *Extra) *Extra {
	if older == nil {
		return newer
	}
	if newer == nil {
		return older
	}
	x := *newer
	if !x.HasMaster {
		x.Master, x.HasMaster = older.Master, older.HasMaster
	}
	if x.Helper == "" {
		x.Helper = older.Helper
	}
	if !x.HasLabels {
		x.Labels, x.HasLabels = older.Labels, older.HasLabels
	}
	if !x.HasAdjust {
		x.AdjustOriginal, x.AdjustReply, x.HasAdjust = older.AdjustOriginal, older.AdjustReply, older.HasAdjust
	}
	if !x.HasSCTP {
		x.SCTP, x.HasSCTP = older.SCTP, older.HasSCTP
	}
	if !x.HasSynproxy {
		x.Synproxy, x.HasSynproxy = older.Synproxy, older.HasSynproxy
	}
	return &x
}
