"""RUN: the engines that execute artifacts, behind one port."""
