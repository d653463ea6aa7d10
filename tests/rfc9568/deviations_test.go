package rfc9568

// deviation is where Tandem does not do what RFC 9568 says, or does more.
type deviation struct {
	name     string
	sections []string
	what     string
	reason   string
	tests    []string
}

func deviations() []deviation {
	var all []deviation
	for _, part := range [][]deviation{ofTheGroup(), ofTrust(), ofParameters(), ofTheWire()} {
		all = append(all, part...)
	}
	return all
}

// ofTheGroup are those that come of one machine for many carriers.
func ofTheGroup() []deviation {
	return []deviation{
		{
			"One machine for many carriers",
			[]string{"5.2.3", "6.4"},
			"All virtual routers of a group, of both families and on every network, and the HA link have one state machine. An advert counts on whichever carrier it is heard; a tie is broken by the addresses of that carrier.",
			"Machines of their own drift apart: one network's gateway on one node, the next one's on the other, and no session survives. With a single carrier an advert means what it means in the RFC.",
			[]string{"vrrp/TestAnyCarrierCounts/BACKUP hears one of three", "vrrp/TestAnyCarrierCounts/MASTER hears one of three", "vrrp/TestAnyCarrierCounts/the tie is broken by the addresses of that carrier"},
		},
		{
			"Heartbeats",
			[]string{"6.4.2"},
			"A MASTER's authenticated heartbeat on the HA link sets Active_Down_Timer like an advert of its priority.",
			"The HA link is one more way to see that the MASTER lives, and the only one by which a BACKUP can be heard.",
			[]string{"vrrp/TestMasterHeartbeatIsASignOfLife/of a MASTER", "vrrp/TestMasterHeartbeatIsASignOfLife/not of a BACKUP", "vrrp/TestMasterHeartbeatIsASignOfLife/not of a MASTER that is preempted"},
		},
		{
			"Beats and the second opinion",
			[]string{"6.1", "6.4.2", "7.2"},
			"A BACKUP that misses three and a half heartbeats asks on all other carriers, twice, with an advert of priority 1 from its physical MAC address, and is MASTER one beat later if nobody answers: earlier than Active_Down_Interval. Without beats the interval decides alone.",
			"A living MASTER must answer a losing advert at once (§6.4.3), so silence is proof. A power-off is known in 90 ms at adverts of 100 ms, and a cut HA link costs a question.",
			[]string{
				"vrrp/TestSilentHeartbeatsAskThenTakeOver", "vrrp/TestAnsweredQuestionKeepsTheBackup", "vrrp/TestQuestionIsAskedTwice", "vrrp/TestNoQuestion",
				"vrrp/TestMasterAnswersQuestions", "vrrp/TestBackupIgnoresQuestions", "vrrp/wire/TestRFC9568_6_4_3_QuestionComesFromThePhysicalMAC", "vrrp/fence/TestQuestionDoesNotRenew",
			},
		},
		{
			"Stalls of the MASTER's process",
			[]string{"6.1", "6.4.2"},
			"With its questions a BACKUP asks the peer's kernel on the HA link, by ICMP echo. While that answers, the BACKUP goes on asking and takes over when 40 ms and a beat have passed since the last sign of life, even where Active_Down_Interval is shorter, as it is at adverts of 10 ms. Where the kernel refuses heartbeats because nobody listens it asks at once, and takes over half a beat after the lease has ended.",
			"A kernel keeps even a real-time process off its processor for so long when the machine is busy. It has power then, and its lease has ended, so that waiting is safe; a kernel without power does not answer and is not waited for.",
			[]string{
				"vrrp/TestEchoTellsAStallFromADeath", "vrrp/TestStallShorterThanMaxStallMovesNothing", "vrrp/TestStalledMasterGoesOn", "vrrp/TestEchoChangesNothingAtSlowerIntervals",
				"vrrp/TestRefusalHastensTheQuestion", "vrrp/TestRefusalIsNoProof", "vrrp/TestMissingBeatsAreProbed", "vrrp/TestUnaskedEchoesAndRefusals",
			},
		},
		{
			"Fitness bands",
			[]string{"5.2.4", "6.1", "6.4.2"},
			"Configured priorities are 100 to 254, or 255. Every failure of a node costs a band of ten, and a BACKUP takes over from a MASTER of a lower band even without Preempt_Mode; it waits two seconds for its session table.",
			"Which node can do the work decides, not which number was configured. Both equally bad changes nothing.",
			[]string{
				"vrrp/TestBackupTakesOverFromLowerBand/without Preempt a lower band is discarded", "vrrp/TestBackupTakesOverFromLowerBand/an impaired BACKUP leaves its equal alone",
				"vrrp/TestBackupTakesOverFromLowerBand/patience: not ready, not before two seconds", "vrrp/TestFitnessOutweighsPriority", "vrrp/TestFitnessOfMasterIsAdvertisedAtOnce/a lower band",
				"vrrp/TestGroupConfigValidate/priority of an impaired node",
			},
		},
		{
			"Preempt_Mode waits",
			[]string{"6.1", "6.4.2"},
			"A BACKUP preempts only when its session table is complete and PreemptDelay has passed since, and not after a planned handover. That holds for an owner as well, once it is BACKUP.",
			"A preemption before the sessions are there would drop them, and one after a handover would undo it.",
			[]string{"vrrp/TestBackupTakesOverFromLowerBand/not ready does not preempt", "vrrp/TestPreemptDelay", "vrrp/TestPreemptDelayBeginsWhenReady", "vrrp/TestPreemptDelayBeginsAnewWithReadiness", "vrrp/TestPlannedHandoverSuspendsPreempt/planned"},
		},
		{
			"Handover",
			[]string{"6.4.2", "6.4.3"},
			"A MASTER may offer its role in a heartbeat, on demand or, after 20 ms, because the peer is fitter. The peer becomes MASTER at once, the first advert of it makes the old one BACKUP whatever the priorities, and for a while the adverts of the old one do not count. The old one is silent from then on, but its fence stays open for 2 ms more. Both speak for some milliseconds.",
			"Make before break: with priority 0 and Skew_Time nobody would forward in between. What the old MASTER forwards at that moment takes the switches' ports back, and the replies find its fence open. In the 20 ms the peer may notice the same failure.",
			[]string{
				"vrrp/TestPlannedHandoverOfOldMaster/keeps advertising until the peer does, and repeats the offer", "vrrp/TestPlannedHandoverOfOldMaster/that stops at once closes its fence", "vrrp/TestPlannedHandoverOfOldMaster/takes the role back at once", "vrrp/TestPlannedHandoverOfNewMaster/until the old MASTER has withdrawn the offer",
				"vrrp/TestHandoverIsRefused/when it is not ready", "vrrp/TestImpairedMasterOffers/to a fitter peer", "vrrp/TestImpairedMasterOffers/not to one that the same switch has failed", "vrrp/TestAssumptionIsAboutTheOldMaster", "vrrp/TestOutrankedMemberTakesNoRole",
			},
		},
		{
			"Own stalls of a MASTER",
			[]string{"2.5", "6.4.3"},
			"A MASTER that has sent no advert for two and three quarters of an interval, with beats for an interval and 40 ms at least, is BACKUP before it looks at anything, and says no goodbye. One that slept through its lease only, and has a peer, goes on unless the peer claims to be MASTER, whatever the priorities.",
			"Its fence has closed and somebody may have taken over by right.",
			[]string{
				"vrrp/TestOwnStall/a tick", "vrrp/TestOwnStall/late, but nobody can have taken over", "vrrp/TestOwnStall/a stop: no goodbye, for another may be MASTER",
				"vrrp/TestStalledMasterYieldsToWhoTookOver", "vrrp/TestStalledMasterGoesOn", "vrrp/TestStallIsNoticedFirst",
			},
		},
		{
			"Own stalls of a BACKUP",
			[]string{"2.5", "6.4.2"},
			"A BACKUP whose Active_Down_Timer ended more than an interval ago, or whose question was answered while it slept, gives the MASTER the time of one more advert or asks again, once.",
			"That it was late proves its own stall and not the death of the MASTER.",
			[]string{"vrrp/TestGraceOfLateBackup/late by more waits for one more advert", "vrrp/TestGraceOfLateBackup/there is one grace per silence", "vrrp/TestLateAnswerIsAskedForAgain"},
		},
		{
			"A node without links",
			[]string{"6.4.2", "6.4.3"},
			"A member of a pair whose carriers are all down does not become MASTER and does not stay it; it hears the peer out before it returns.",
			"The peer serves everybody who is still there, and the way back must not begin with two MASTERs.",
			[]string{"vrrp/TestIsolatedNode/steps down", "vrrp/TestIsolatedNode/does not become MASTER", "vrrp/TestIsolatedNode/hears the peer out before it returns", "vrrp/TestReturnedLinkWaitsByTheMastersInterval", "vrrp/TestIsolatedNode/without a peer stays MASTER"},
		},
		{
			"A mute MASTER yields",
			[]string{"6.4.3"},
			"A MASTER whose peer is MASTER too and says for a down interval that it hears no advert by any carrier becomes BACKUP, though its priority may be higher.",
			"Only the one that is heard can serve.",
			[]string{"vrrp/TestMuteMasterYields"},
		},
		{
			"The lease",
			[]string{"6.4.3"},
			"Being MASTER ends in the kernel two and a half intervals, or three and a half beats, after the last advert or beat, before any peer may take over, whether the process lives or not.",
			"A router that is killed, stopped or paused cannot obey a state machine.",
			[]string{"vrrp/TestLeaseEndsBeforeAnyDownInterval", "vrrp/fence/TestSilenceWithinTheLease", "vrrp/fence/TestLeaseExpires"},
		},
		{
			"Changes of the configuration",
			[]string{"6.4.1"},
			"A new configuration keeps the state and the timers. A MASTER whose interval grows sends three adverts at the old pace, one whose interval shrinks sends at once.",
			"A change, or the loss of one advert after it, must cost no election.",
			[]string{
				"vrrp/TestReconfigureKeepsState/a MASTER of a faster group sends at once", "vrrp/TestReconfigureKeepsState/a MASTER of a slower group keeps the pace for three adverts",
				"vrrp/TestReconfigureKeepsState/a BACKUP keeps its timer", "vrrp/TestReconfigureRefusesWhole",
			},
		},
	}
}

// ofTrust are those about routers that may not be what they seem.
func ofTrust() []deviation {
	return []deviation{
		{
			"Goodbyes",
			[]string{"6.4.2"},
			"While a MASTER's authenticated heartbeats come in, an advert of priority 0 does not count; that of the heartbeats does.",
			"Anybody on a network can send a goodbye in the MASTER's name.",
			[]string{"vrrp/TestForgedGoodbyeIsNotBelieved", "vrrp/TestStrangersGoodbyeIsNotBelieved", "vrrp/TestGoodbyeCountsWithoutHeartbeats", "vrrp/TestStaleGoodbyeIsNotBelieved"},
		},
		{
			"Modest newcomers",
			[]string{"5.2.4", "6.4.3"},
			"A member of a pair that became MASTER without ever having heard the other one advertises the lowest healthy priority for a minute, or until the other one says that it is no MASTER.",
			"A node that boots behind ports that do not forward yet believes to be alone; when they open, it must lose against the MASTER in office.",
			[]string{"vrrp/TestMasterThatNeverMetItsPeerIsModest", "vrrp/TestMasterIsProven", "vrrp/TestModestyEndsWhereItMust", "vrrp/TestPreemptingMemberIsNotModest"},
		},
		{
			"Intervals of strangers",
			[]string{"6.1", "6.4.2"},
			"A single advert of a router outside of the pair teaches ten own intervals or a second at most; a second one that comes in time confirms more. While such a router lives and is better, adverts of the peer do not shorten the wait for it.",
			"One forged packet would silence both members for two minutes; and a peer that has just yielded to a slower router may be heard later than that, by a slower carrier.",
			[]string{"vrrp/TestStrangersIntervalNeedsConfirmation", "vrrp/TestSlowerBetterMasterIsWaitedFor"},
		},
		{
			"Equal priority and equal address",
			[]string{"6.4.3"},
			"The RFC is silent. Nobody wins. The elector does not let such an advert near the state machine, counts it, logs it, and the status has it as a condition; members of a pair never have equal priorities.",
			"It is an own advert that a loop brings back, or a host with the same address: what to do about it only people can say.",
			[]string{"vrrp/elector/TestRFC9568_6_4_3_OwnAddressIsAnAlarm", "vrrp/TestRFC9568_6_4_3_EqualInEverythingMovesNothing"},
		},
		{
			"Limits of answers",
			[]string{"6.4.3"},
			"Losing adverts are answered twenty times in an interval at most, questions a hundred times.",
			"A flood of them must not be doubled.",
			[]string{"vrrp/TestRFC9568_6_4_3_LosingAdvertsAreBounded", "vrrp/TestRegularAdvertIsNoAnswer", "vrrp/TestMasterAnswersQuestions"},
		},
		{
			"Signed adverts",
			[]string{"7.1"},
			"Where a network asks for it, an authenticator stands behind the last address, where others see padding, and adverts without one are discarded.",
			"VRRP has had no authentication since version 3, and a LAN is not always a friend.",
			[]string{"vrrp/TestAdvertChannel"},
		},
	}
}

func ofParameters() []deviation {
	return []deviation{
		{
			"Accept_Mode",
			[]string{"6.1"},
			"It is true by default.",
			"People ping their gateway; a node that does not answer is taken for a dead one.",
			[]string{"router/config/TestRFC9568_6_1_Defaults"},
		},
		{
			"Preempt_Mode",
			[]string{"6.1"},
			"It is false by default.",
			"A node that comes back has no reason to move a healthy MASTER.",
			[]string{"router/config/TestRFC9568_6_1_Defaults"},
		},
		{
			"Priority",
			[]string{"5.2.4", "8.3.2"},
			"The first member has 200 by default and the second 180, instead of 100 for both.",
			"Members of equal priority would be told apart by their addresses, which may differ from carrier to carrier; what lies below 100 tells of failures.",
			[]string{"router/config/TestRFC9568_8_3_2_PrioritiesAreSpread"},
		},
		{
			"Advertisement_Interval",
			[]string{"6.1", "5.2.7"},
			"It is 100 ms by default instead of a second, and 10 ms at least.",
			"A second makes 3.6 s until a takeover without beats.",
			[]string{"router/config/TestRFC9568_6_1_Defaults", "vrrp/TestGroupConfigValidate/shortest interval"},
		},
		{
			"Version 2",
			[]string{"8.4"},
			"Skew_Time is that of version 3, a share of the interval and not of a second, and an advert with another interval is not discarded.",
			"One state machine serves carriers of both versions. At the interval of one second, which nearly everybody has, both are equal, and a mismatch is no reason for two MASTERs.",
			[]string{"vrrp/elector/TestVersion2HasTheSkewOfVersion3", "vrrp/elector/TestVersion2MismatchIsNotDropped"},
		},
	}
}

func ofTheWire() []deviation {
	return []deviation{
		{
			"Both checksums",
			[]string{"5.2.8"},
			"Over IPv4 a checksum with the pseudo-header is accepted, too, and sent where a network asks for it.",
			"Many routers read RFC 5798 so.",
			[]string{"vrrp/TestRFC9568_5_2_8_BothFlavoursAreAccepted", "vrrp/TestRFC9568_5_2_Vectors/IPv4 pseudo-header"},
		},
		{
			"Frames for the fence",
			[]string{"5.1.1.3", "5.1.2.3"},
			"Between adverts the elector renews and closes the lease by messages with a TTL of 2 and 1, which the fence takes.",
			"The fence stands where frames leave. Whatever got past it would be dropped by every router for its TTL.",
			[]string{"vrrp/wire/TestRFC9568_5_1_1_3_FramesForTheFenceHaveOtherTTLs", "vrrp/fence/TestRenewalOpensAndDoesNotLeave"},
		},
		{
			"Unicast",
			[]string{"5.1.1.2", "5.1.2.2"},
			"Where a network asks for it, adverts go to the peer's address and only its own are heard.",
			"Clouds carry no multicast.",
			[]string{"vrrp/wire/TestUnicastAdvertOnTheWire", "vrrp/wire/TestUnicastPortDrivesTheFenceThroughTheVirtualLink"},
		},
		{
			"No virtual MAC address",
			[]string{"7.2", "7.3", "8.1.2", "8.2.2"},
			"Where a network asks for it, the virtual addresses stand on the interface, with the node's own MAC address.",
			"Clouds and some hypervisors refuse frames from any other.",
			[]string{"vrrp/wire/TestOwnMACIsAnnounced", "router/kernel/TestOwnMACAnswers", "vrrp/fence/TestClosedFenceIsSilentInEveryMode"},
		},
		{
			"The HA link",
			[]string{"7.2", "7.3", "5.2.5"},
			"Adverts on the HA link come from the interface's own MAC address and carry the group's first virtual address.",
			"Nobody is served there, so there is nothing to move, and an advert must have an address.",
			[]string{"vrrp/wire/TestAdvertOnTheHALinkHasTheInterfacesOwnMAC", "router/TestCarriers"},
		},
		{
			"More announcements",
			[]string{"6.4.1", "6.4.2", "8.1.2", "8.2.2"},
			"Addresses are announced three times within some seconds, and then every minute; again after a losing advert and whenever the peer may have been MASTER as well.",
			"A host may ignore a change within a second of the last, and a switch may have learned the wrong port meanwhile.",
			[]string{"vrrp/TestAnnouncerFirstThingsFirst", "vrrp/TestAnnouncerRefreshesUntilStopped", "vrrp/TestAnnouncerStorm", "vrrp/TestSurvivorAnnouncesAgain", "vrrp/TestYieldedPeerMakesTheMasterAnnounceAgain"},
		},
	}
}
