#!/bin/sh
# What it prints is the environment of every task: the nodes share loopback, which MPI and Gloo leave out by themselves.
echo "export OMPI_MCA_btl_tcp_if_include=lo"
echo "export OMPI_MCA_btl=self,vader,tcp"
echo "export OMPI_MCA_pml=ob1"
echo "export OMPI_MCA_osc=^ucx"
echo "export GLOO_SOCKET_IFNAME=lo"
echo "export OMPI_MCA_mpi_yield_when_idle=1"
