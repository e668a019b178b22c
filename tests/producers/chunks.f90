! A chunk of 100 rows [n, n + 0.5, n + 0.25] in Fortran's order, by stream access.
program chunks
  use iso_fortran_env, only: real64, int8
  implicit none
  real(real64) :: rows(100, 3)
  character(len=1024) :: path
  character(len=118) :: text
  integer :: i, unit, bytes

  call get_command_argument(1, path)
  path = trim(path)//'/fortran.npy'
  do i = 1, 100
    rows(i, :) = real(i - 1, real64) + [0.0_real64, 0.5_real64, 0.25_real64]
  end do
  text = "{'descr': '<f8', 'fortran_order': True, 'shape': (100, 3), }"
  text(118:118) = new_line('a')
  open(newunit=unit, file=path, access='stream', form='unformatted', status='new', action='write')
  write(unit) char(147), 'NUMPY', 1_int8, 0_int8, 118_int8, 0_int8, text, rows
  close(unit)
  ! gfortran tells of no error, neither here nor in write: look at what is there.
  inquire(file=path, size=bytes)
  if (bytes < 128 + 2400) error stop 'refused: see the log of the dataset'
end program chunks
