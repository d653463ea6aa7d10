package fence

// Plain makes the Fence behave as on a kernel that cannot protect tables.
func (f *Fence) Plain() { f.persist = false }

// Kill lets go of the sockets as the kernel does for a process that is killed.
func (f *Fence) Kill() { _ = f.nft.CloseLasting() }

// CanProtect tells what the kernel can.
func (f *Fence) CanProtect() bool { return f.persist }
