package lab

// NewNamespace makes an empty network namespace beside those of a [Lab], with
// loopback up and IPv6 off, for whoever needs another topology. It works only
// [Inside], and the caller must [Namespace.Delete] it.
func NewNamespace(name string) (Namespace, error) { return createNamespace(name) }

// Processes lists the PIDs in the namespace, as [Lab.Processes] does.
func (n Namespace) Processes() []int { return new(Lab).Processes(n.name) }

// Kill kills every process in the namespace, as if at one moment: none can act on the
// death of another. It returns when they are gone or zombies.
func (n Namespace) Kill() error {
	l := new(Lab)
	if err := l.stopAll(n.name); err != nil {
		return err
	}
	return l.killAll(n.name)
}

// Delete kills every process in the namespace and removes it. A namespace that is not
// there is no error.
func (n Namespace) Delete() error {
	if err := n.Kill(); err != nil {
		return err
	}
	return deleteNamespace(n.name)
}
